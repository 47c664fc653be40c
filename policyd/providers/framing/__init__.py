"""Framings: bytes in any chunking to whole events and members, and edits of JSON by splicing bytes.

Sans-IO; what reads a stream keeps what is incomplete and nothing else.
"""
