"""The gRPC services that other programs call: `policyd.v1.PolicyService`, health and reflection.

`service` answers the calls. `reading` and `writing` turn messages into the enforcer's types and back, `digest` tells
whether two calls are one, `errors` words what went wrong, and `calls` stands between gRPC and the service.
"""
