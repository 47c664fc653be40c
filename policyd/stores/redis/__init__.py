"""The store in Redis 6.2+ or Valkey, for any number of replicas.

TO WRITE
"""
