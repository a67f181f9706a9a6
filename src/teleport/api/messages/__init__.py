"""The messages of the auth API, as typed structs.

Rules: fields are only ever appended, with defaults (formats grow); unknown fields of a request are refused, so that
nobody sets what a route does not mean to take; durations are seconds, times RFC 3339, keys and certificates text.
A resource travels as the JSON document that the store holds (`Document`), without secrets unless asked for.
"""

from __future__ import annotations

from teleport.api.messages.access import ExplainPart, ExplainReason, ExplainRequest, Explanation
from teleport.api.messages.audit import (
    AppendRecordingRequest,
    CompleteRecordingRequest,
    EventsPage,
    IntakeReply,
    IntakeRequest,
    ListRecordingsRequest,
    RecordingInfo,
    RecordingOffset,
    RecordingRequest,
    RecordingsPage,
    SearchEventsRequest,
    VerifyReply,
)
from teleport.api.messages.base import Document, Done, Empty, ErrorReply, Message, Named, Request
from teleport.api.messages.certificates import (
    HostCredentials,
    JoinRequest,
    LoginRequest,
    RenewHostRequest,
    ServerCert,
    SignHostRequest,
    SignServerRequest,
    SignUserRequest,
    UserCerts,
)
from teleport.api.messages.cluster import AuthorityStatus, ClusterCA, ClusterStatus, HostSigner, ProxyAddresses, WhoAmI
from teleport.api.messages.resources import (
    ExpelRequest,
    GetRequest,
    HeartbeatRequest,
    ListRequest,
    One,
    Page,
    StoreRequest,
    WatchItem,
    WatchLine,
    WatchRequest,
)
from teleport.api.messages.tokens import AddTokenRequest, JoinToken, JoinTokenInfo
from teleport.api.messages.users import (
    AddUserRequest,
    FinishUserTokenRequest,
    ResetUserRequest,
    UnlockedUser,
    UnlockUserRequest,
    UpdateUserRequest,
    UserToken,
    UserTokenInfo,
    UserTokenRequest,
)

__all__ = [
    "AddTokenRequest",
    "AddUserRequest",
    "AppendRecordingRequest",
    "AuthorityStatus",
    "ClusterCA",
    "ClusterStatus",
    "CompleteRecordingRequest",
    "Document",
    "Done",
    "Empty",
    "ErrorReply",
    "EventsPage",
    "ExpelRequest",
    "ExplainPart",
    "ExplainReason",
    "ExplainRequest",
    "Explanation",
    "FinishUserTokenRequest",
    "GetRequest",
    "HeartbeatRequest",
    "HostCredentials",
    "HostSigner",
    "IntakeReply",
    "IntakeRequest",
    "JoinRequest",
    "JoinToken",
    "JoinTokenInfo",
    "ListRecordingsRequest",
    "ListRequest",
    "LoginRequest",
    "Message",
    "Named",
    "One",
    "Page",
    "ProxyAddresses",
    "RecordingInfo",
    "RecordingOffset",
    "RecordingRequest",
    "RecordingsPage",
    "RenewHostRequest",
    "Request",
    "ResetUserRequest",
    "SearchEventsRequest",
    "ServerCert",
    "SignHostRequest",
    "SignServerRequest",
    "SignUserRequest",
    "StoreRequest",
    "UnlockUserRequest",
    "UnlockedUser",
    "UpdateUserRequest",
    "UserCerts",
    "UserToken",
    "UserTokenInfo",
    "UserTokenRequest",
    "VerifyReply",
    "WatchItem",
    "WatchLine",
    "WatchRequest",
    "WhoAmI",
]
