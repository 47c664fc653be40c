"""The gRPC contract. Generated from proto/policyd/v1 by `make proto`: edit it there."""
