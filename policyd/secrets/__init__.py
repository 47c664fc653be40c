"""policyd's own secret file: the providers' keys, encrypted at rest.

sealing.py      one key, sealed with AES-256-GCM under the master key
private.py      files that nobody else may read
secret_file.py  the file: read, changed, sealed anew
"""

from policyd.secrets.sealing import MasterKey, read_master_key
from policyd.secrets.secret_file import SecretFile

__all__ = ["MasterKey", "SecretFile", "read_master_key"]
