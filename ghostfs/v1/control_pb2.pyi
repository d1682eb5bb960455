from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ControlRequest(_message.Message):
    __slots__ = ("subscribe", "status", "settle", "unmount")
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SETTLE_FIELD_NUMBER: _ClassVar[int]
    UNMOUNT_FIELD_NUMBER: _ClassVar[int]
    subscribe: Subscribe
    status: OwnerStatusRequest
    settle: Settle
    unmount: Unmount
    def __init__(self, subscribe: _Optional[_Union[Subscribe, _Mapping]] = ..., status: _Optional[_Union[OwnerStatusRequest, _Mapping]] = ..., settle: _Optional[_Union[Settle, _Mapping]] = ..., unmount: _Optional[_Union[Unmount, _Mapping]] = ...) -> None: ...

class Subscribe(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OwnerStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Settle(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Unmount(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ControlReply(_message.Message):
    __slots__ = ("error", "epoch", "head", "status")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    error: str
    epoch: int
    head: int
    status: OwnerStatus
    def __init__(self, error: _Optional[str] = ..., epoch: _Optional[int] = ..., head: _Optional[int] = ..., status: _Optional[_Union[OwnerStatus, _Mapping]] = ...) -> None: ...

class OwnerStatus(_message.Message):
    __slots__ = ("pid", "mountpoint", "started_unix_ns", "dirty_inodes", "open_files", "requests", "bytes_hashed", "bytes_reread", "trouble")
    PID_FIELD_NUMBER: _ClassVar[int]
    MOUNTPOINT_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    DIRTY_INODES_FIELD_NUMBER: _ClassVar[int]
    OPEN_FILES_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_HASHED_FIELD_NUMBER: _ClassVar[int]
    BYTES_REREAD_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    pid: int
    mountpoint: str
    started_unix_ns: int
    dirty_inodes: int
    open_files: int
    requests: int
    bytes_hashed: int
    bytes_reread: int
    trouble: str
    def __init__(self, pid: _Optional[int] = ..., mountpoint: _Optional[str] = ..., started_unix_ns: _Optional[int] = ..., dirty_inodes: _Optional[int] = ..., open_files: _Optional[int] = ..., requests: _Optional[int] = ..., bytes_hashed: _Optional[int] = ..., bytes_reread: _Optional[int] = ..., trouble: _Optional[str] = ...) -> None: ...
