"""Recordings in S3, or in a service that speaks as it does (docs/architecture.md).

`settings` is what the configuration says, `bucket` speaks to the service, `uploader` brings there what hosts brought
here, `store` finds a recording wherever it lies.
"""
