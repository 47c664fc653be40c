"""Configuration: the policy file and the process settings, checked, with messages that name the place and the remedy.

yaml_tree.py      text -> a tree of scalars, lists and mappings that know their lines
problems.py       one mistake, and all mistakes of one file
values.py         the small things that settings are made of: words, amounts, durations, globs
section.py        a mapping with fixed keys
shapes.py         what values look like, as JSON Schema
*_section.py      one part of the policy file each
policy_file.py    the tree -> `policyd.core.policy.Policy`
file_source.py    what is in force of a file, reloaded when the file changes
policy_source.py  the policy in force
secrets_source.py  the providers' keys in force
settings.py       flags and environment variables -> `Settings`
"""

from policyd.config.file_source import FileSource
from policyd.config.policy_file import load_policy, open_policy, parse_policy
from policyd.config.policy_source import PolicySource
from policyd.config.secrets_source import SecretsSource
from policyd.config.settings import (
    Address,
    HostPort,
    Settings,
    TlsFiles,
    Transport,
    UnixSocket,
    parse_address,
    parse_host_port,
    with_flags,
)

__all__ = [
    "Address",
    "FileSource",
    "HostPort",
    "PolicySource",
    "SecretsSource",
    "Settings",
    "TlsFiles",
    "Transport",
    "UnixSocket",
    "load_policy",
    "open_policy",
    "parse_address",
    "parse_host_port",
    "parse_policy",
    "with_flags",
]
