"""Storage in an etcd cluster: for any number of auth servers.

`settings` may be imported anywhere; `engine` loads grpc and protobuf (the extra `etcd`), so it is imported by whoever
opens a storage of this type, when it does: `open_etcd` of `teleport.backend.etcd.load`.
"""
