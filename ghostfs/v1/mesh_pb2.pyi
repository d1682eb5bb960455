from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Encoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RAW: _ClassVar[Encoding]
    ZSTD: _ClassVar[Encoding]
RAW: Encoding
ZSTD: Encoding

class EnrolRequest(_message.Message):
    __slots__ = ("node_id", "node_name", "version")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    node_id: bytes
    node_name: str
    version: str
    def __init__(self, node_id: _Optional[bytes] = ..., node_name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class EnrolReply(_message.Message):
    __slots__ = ("replica", "hub_id")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    HUB_ID_FIELD_NUMBER: _ClassVar[int]
    replica: int
    hub_id: bytes
    def __init__(self, replica: _Optional[int] = ..., hub_id: _Optional[bytes] = ...) -> None: ...

class FollowRequest(_message.Message):
    __slots__ = ("hello", "ack")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    ack: Ack
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("session", "node_id", "epoch", "seq", "snapshot", "has_content")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    HAS_CONTENT_FIELD_NUMBER: _ClassVar[int]
    session: str
    node_id: bytes
    epoch: int
    seq: int
    snapshot: SnapshotPosition
    has_content: bool
    def __init__(self, session: _Optional[str] = ..., node_id: _Optional[bytes] = ..., epoch: _Optional[int] = ..., seq: _Optional[int] = ..., snapshot: _Optional[_Union[SnapshotPosition, _Mapping]] = ..., has_content: _Optional[bool] = ...) -> None: ...

class SnapshotPosition(_message.Message):
    __slots__ = ("snapshot_id", "position")
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    snapshot_id: bytes
    position: int
    def __init__(self, snapshot_id: _Optional[bytes] = ..., position: _Optional[int] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("epoch", "seq", "snapshot", "fingerprint")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    seq: int
    snapshot: SnapshotPosition
    fingerprint: bytes
    def __init__(self, epoch: _Optional[int] = ..., seq: _Optional[int] = ..., snapshot: _Optional[_Union[SnapshotPosition, _Mapping]] = ..., fingerprint: _Optional[bytes] = ...) -> None: ...

class FollowEvent(_message.Message):
    __slots__ = ("begin", "cells", "block_list", "end", "heartbeat")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_LIST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    begin: Begin
    cells: Cells
    block_list: BlockListPart
    end: End
    heartbeat: Heartbeat
    def __init__(self, begin: _Optional[_Union[Begin, _Mapping]] = ..., cells: _Optional[_Union[Cells, _Mapping]] = ..., block_list: _Optional[_Union[BlockListPart, _Mapping]] = ..., end: _Optional[_Union[End, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class Begin(_message.Message):
    __slots__ = ("epoch", "since", "head", "delta", "snapshot", "committed_unix_ns")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    since: int
    head: int
    delta: bool
    snapshot: SnapshotChunk
    committed_unix_ns: int
    def __init__(self, epoch: _Optional[int] = ..., since: _Optional[int] = ..., head: _Optional[int] = ..., delta: _Optional[bool] = ..., snapshot: _Optional[_Union[SnapshotChunk, _Mapping]] = ..., committed_unix_ns: _Optional[int] = ...) -> None: ...

class SnapshotChunk(_message.Message):
    __slots__ = ("snapshot_id", "position", "first", "last")
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    snapshot_id: bytes
    position: int
    first: bool
    last: bool
    def __init__(self, snapshot_id: _Optional[bytes] = ..., position: _Optional[int] = ..., first: _Optional[bool] = ..., last: _Optional[bool] = ...) -> None: ...

class Cells(_message.Message):
    __slots__ = ("inodes", "dirents")
    INODES_FIELD_NUMBER: _ClassVar[int]
    DIRENTS_FIELD_NUMBER: _ClassVar[int]
    inodes: _containers.RepeatedCompositeFieldContainer[InodeCell]
    dirents: _containers.RepeatedCompositeFieldContainer[DirentCell]
    def __init__(self, inodes: _Optional[_Iterable[_Union[InodeCell, _Mapping]]] = ..., dirents: _Optional[_Iterable[_Union[DirentCell, _Mapping]]] = ...) -> None: ...

class InodeCell(_message.Message):
    __slots__ = ("id", "kind", "mode", "uid", "gid", "mtime_ns", "size", "rdev", "target", "xattrs", "digest", "blocks", "blocks_length", "attr_seq", "content_seq", "origin", "inline", "superseded")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    MTIME_NS_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    RDEV_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    XATTRS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_LENGTH_FIELD_NUMBER: _ClassVar[int]
    ATTR_SEQ_FIELD_NUMBER: _ClassVar[int]
    CONTENT_SEQ_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_FIELD_NUMBER: _ClassVar[int]
    id: int
    kind: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    rdev: int
    target: bytes
    xattrs: bytes
    digest: bytes
    blocks: bytes
    blocks_length: int
    attr_seq: int
    content_seq: int
    origin: int
    inline: Inline
    superseded: bool
    def __init__(self, id: _Optional[int] = ..., kind: _Optional[int] = ..., mode: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., mtime_ns: _Optional[int] = ..., size: _Optional[int] = ..., rdev: _Optional[int] = ..., target: _Optional[bytes] = ..., xattrs: _Optional[bytes] = ..., digest: _Optional[bytes] = ..., blocks: _Optional[bytes] = ..., blocks_length: _Optional[int] = ..., attr_seq: _Optional[int] = ..., content_seq: _Optional[int] = ..., origin: _Optional[int] = ..., inline: _Optional[_Union[Inline, _Mapping]] = ..., superseded: _Optional[bool] = ...) -> None: ...

class Inline(_message.Message):
    __slots__ = ("encoding", "data")
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    encoding: Encoding
    data: bytes
    def __init__(self, encoding: _Optional[_Union[Encoding, str]] = ..., data: _Optional[bytes] = ...) -> None: ...

class BlockListPart(_message.Message):
    __slots__ = ("inode", "data")
    INODE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    inode: int
    data: bytes
    def __init__(self, inode: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class DirentCell(_message.Message):
    __slots__ = ("parent", "name", "inode", "seq", "origin")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    parent: int
    name: bytes
    inode: int
    seq: int
    origin: int
    def __init__(self, parent: _Optional[int] = ..., name: _Optional[bytes] = ..., inode: _Optional[int] = ..., seq: _Optional[int] = ..., origin: _Optional[int] = ...) -> None: ...

class End(_message.Message):
    __slots__ = ("fingerprint",)
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    fingerprint: bytes
    def __init__(self, fingerprint: _Optional[bytes] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("epoch", "head")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    head: int
    def __init__(self, epoch: _Optional[int] = ..., head: _Optional[int] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("session", "node_id", "wants")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    WANTS_FIELD_NUMBER: _ClassVar[int]
    session: str
    node_id: bytes
    wants: _containers.RepeatedCompositeFieldContainer[Want]
    def __init__(self, session: _Optional[str] = ..., node_id: _Optional[bytes] = ..., wants: _Optional[_Iterable[_Union[Want, _Mapping]]] = ...) -> None: ...

class Want(_message.Message):
    __slots__ = ("inode", "index", "digest")
    INODE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    inode: int
    index: int
    digest: bytes
    def __init__(self, inode: _Optional[int] = ..., index: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Block(_message.Message):
    __slots__ = ("want", "status", "encoding", "data")
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OK: _ClassVar[Block.Status]
        SUPERSEDED: _ClassVar[Block.Status]
        UNAVAILABLE: _ClassVar[Block.Status]
    OK: Block.Status
    SUPERSEDED: Block.Status
    UNAVAILABLE: Block.Status
    WANT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    want: int
    status: Block.Status
    encoding: Encoding
    data: bytes
    def __init__(self, want: _Optional[int] = ..., status: _Optional[_Union[Block.Status, str]] = ..., encoding: _Optional[_Union[Encoding, str]] = ..., data: _Optional[bytes] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("version", "hub_id", "started_unix_ns", "sessions")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HUB_ID_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    version: str
    hub_id: bytes
    started_unix_ns: int
    sessions: _containers.RepeatedCompositeFieldContainer[SessionStatus]
    def __init__(self, version: _Optional[str] = ..., hub_id: _Optional[bytes] = ..., started_unix_ns: _Optional[int] = ..., sessions: _Optional[_Iterable[_Union[SessionStatus, _Mapping]]] = ...) -> None: ...

class SessionStatus(_message.Message):
    __slots__ = ("name", "epoch", "head", "fingerprint", "mounted", "mountpoint", "members")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MOUNTED_FIELD_NUMBER: _ClassVar[int]
    MOUNTPOINT_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    epoch: int
    head: int
    fingerprint: bytes
    mounted: bool
    mountpoint: str
    members: _containers.RepeatedCompositeFieldContainer[MemberStatus]
    def __init__(self, name: _Optional[str] = ..., epoch: _Optional[int] = ..., head: _Optional[int] = ..., fingerprint: _Optional[bytes] = ..., mounted: _Optional[bool] = ..., mountpoint: _Optional[str] = ..., members: _Optional[_Iterable[_Union[MemberStatus, _Mapping]]] = ...) -> None: ...

class MemberStatus(_message.Message):
    __slots__ = ("node_name", "node_id", "connected", "seq", "lag_changes", "lag_ns", "bytes_sent", "bytes_per_second", "last_ack_unix_ns", "fingerprint")
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    LAG_CHANGES_FIELD_NUMBER: _ClassVar[int]
    LAG_NS_FIELD_NUMBER: _ClassVar[int]
    BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    LAST_ACK_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    node_name: str
    node_id: bytes
    connected: bool
    seq: int
    lag_changes: int
    lag_ns: int
    bytes_sent: int
    bytes_per_second: float
    last_ack_unix_ns: int
    fingerprint: bytes
    def __init__(self, node_name: _Optional[str] = ..., node_id: _Optional[bytes] = ..., connected: _Optional[bool] = ..., seq: _Optional[int] = ..., lag_changes: _Optional[int] = ..., lag_ns: _Optional[int] = ..., bytes_sent: _Optional[int] = ..., bytes_per_second: _Optional[float] = ..., last_ack_unix_ns: _Optional[int] = ..., fingerprint: _Optional[bytes] = ...) -> None: ...
