//! Bounds of this crate. Those of messages and packs are in [`sustain_proto::limits`].

use std::time::Duration;

/// Neighbours of a node in the overlay, unless the cluster is so small that everyone is one. Simulated
/// with 100 nodes: 8 lets a neighbourhood hold everything with room for lost nodes.
pub const NEIGHBOURS_DEFAULT: usize = 8;

/// Most peers that a configuration may name: up to some hundreds of nodes everyone knows everyone.
pub const PEERS_MAX: usize = 1_024;

/// Most handshakes under way at once, with known peers and strangers together. A handshake holds some
/// tens of kilobytes.
pub const HANDSHAKES_MAX: usize = 64;

/// Handshakes under way from which on a caller must first show that it receives what is sent to its
/// address, so that forged addresses can't fill [`HANDSHAKES_MAX`].
pub const HANDSHAKES_UNVALIDATED_MAX: usize = 32;

/// Most packets' bytes kept for callers whose handshake has not begun.
pub const INCOMING_BUFFER_BYTES_MAX: u64 = 1 << 20;

/// How long a caller may take for its handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Streams that a peer may have open at once on the control lane, of each sort. A peer sends some
/// messages a second; more means that this node is stalled, and then waiting is right.
pub const CONTROL_STREAMS_MAX: u32 = 64;

/// Requests that a peer may have under way at once on the bulk lane.
pub const BULK_STREAMS_MAX: u32 = 16;

/// Clients' connections that a peer may forward at once. A stream costs little until it carries data.
pub const FORWARD_STREAMS_MAX: u32 = 1_024;

/// Bulk requests served at once for all peers together: each may hold a blocking thread, a file and
/// [`PACK_BUFFERS`] buffers. Three times what one peer may ask for, so that no peer takes all.
pub const BULK_SERVED_MAX: usize = 3 * BULK_STREAMS_MAX as usize;

/// Most unread bytes of one stream: about the bandwidth-delay product of 100 Mbit/s over 150 ms.
pub const STREAM_WINDOW_BYTES: u32 = 2 << 20;

/// Most unread bytes of a control connection: every stream a full frame.
pub const CONTROL_WINDOW_BYTES: u32 = 4 << 20;

/// Most unread bytes of a bulk or forward connection; what a peer can make this node hold in memory.
pub const DATA_WINDOW_BYTES: u32 = 16 << 20;

/// Bytes read, sent or written at a time when packs travel. Larger gains nothing over loopback.
pub const PACK_BUFFER_BYTES: usize = 256 * 1024;

/// Buffers between the disk and the network for each pack that travels.
pub const PACK_BUFFERS: usize = 4;

/// How long a started request may take to arrive whole (a frame has 1 MiB at most).
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages queued for one peer. They are heartbeats and probes: if so many wait, the oldest are stale.
pub const OUTBOX_MESSAGES_MAX: usize = 64;

/// Answers to probes that were not yet looked at.
pub const PROBE_EVENTS_MAX: usize = 1_024;

/// Directories of packs fetched at once from all peers together.
pub const DIRECTORIES_AT_ONCE: usize = 12;

/// Orders under way at one peer while gathering: one arrives, one is on its way, and one waits at the peer.
pub const ORDERS_PER_PEER: usize = 3;

/// Groups in one order: 4 MiB, which a link of 1 Gbit/s takes 34 ms for.
pub const GROUPS_PER_ORDER: usize = 64;

/// Groups of the packs whose lists are asked for at once. The peer reads these packs first: 32 MiB.
pub const GROUPS_LISTED_AT_ONCE: usize = 512;

/// Pieces that are gathered at once: each has a file open.
pub const PIECES_AT_ONCE: usize = 256;

/// Groups that are checked and written at a time.
pub const GROUPS_AT_ONCE: usize = 2;

/// How often a peer may send nothing of a piece that it was asked for (refuse, break off, stall) before it is not asked
/// for it any more.
pub const PIECE_TRIES_PER_PEER: u32 = 3;

/// Events of a gathering that were not yet looked at.
pub const GATHER_EVENTS_MAX: usize = 256;

/// Times that it is looked at once what is here of pieces.
pub const OPENED_AT_ONCE: usize = 2;

/// Times that pieces are synced at once: while some are, others become whole.
pub const KEPT_AT_ONCE: usize = 2;

/// Values of groups that a node keeps in memory after they were asked for: 8 MiB, the lists of 16 GiB of packs.
pub const GROUPS_KEPT_MAX: usize = 1 << 18;

/// Sheets of one pack that are known while it is rebuilt. Usually there is one.
pub const SHEETS_TRIED_MAX: usize = 4;

/// Files open at once for packs that are rebuilt: one for each fragment that comes, and one for the pack.
pub const REBUILT_FILES_MAX: usize = 256;

/// Bytes of packs that are rebuilt at once, if it is more than one pack.
pub const REBUILT_BYTES_MAX: u64 = 64 << 20;

/// Fragments that are asked of one peer together.
pub const FRAGMENTS_PER_ROUND: usize = 64;

/// Most bytes of a file with a catalog. One of a service with a snapshot a second for a minute has about a megabyte.
pub const CATALOG_FILE_BYTES_MAX: usize = 128 << 20;

/// Parts that are being received at once: each has a file open.
pub const PARTS_COMING_MAX: usize = 512;

/// Peers asked at once what they hold.
pub const PEERS_ASKED_AT_ONCE: usize = 32;

/// How long `shutdown` waits for tasks, and then for peers to hear that this node leaves.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Most bytes of a key file: it has less than 100, anything larger is something else.
pub const KEY_FILE_BYTES_MAX: usize = 4_096;

/// Bytes of a pack's end that are asked for first, where its directory is: 780 records, of 21 KiB each in a pack of
/// 16 MiB. Where it is longer it takes another request.
pub const DIRECTORY_TAIL_BYTES: u64 = 32 * 1024;

/// Most records in the directories of packs that are elsewhere, which a snapshot that is not whole keeps: about 220 MB.
/// With more, all of it is fetched first. 128 GiB of chunks are half as many.
pub const FOREIGN_RECORDS_MAX: usize = 4 << 20;

/// Stored bytes that come with one chunk that a guest waits for, if those after it are chunks too: a guest that reads
/// on then waits once for four or more. A guess.
pub const DEMAND_RUN_BYTES: u64 = 256 * 1024;

/// Runs fetched at once for a guest. Each holds its bytes twice, stored and plain.
pub const DEMAND_AT_ONCE: usize = 8;

/// How long a peer may send nothing of what a guest waits for, before another one is asked. A peer that is gone is
/// often known as lost only later; the guest's request has two seconds before the VM is paused.
pub const DEMAND_TIMEOUT: Duration = Duration::from_millis(900);

/// Chunks kept that came with one that a guest waited for: 4 MiB.
pub const CHUNKS_AHEAD_MAX: usize = 64;

/// Buckets in which claims are compared; at most as many as a number has bits.
pub const CLAIM_BUCKETS: usize = 32;

/// Nodes whose claims are known: more than there may be members, as those that left are forgotten late.
pub const CLAIMS_MAX: usize = 2 * PEERS_MAX;

/// Claims that wait to be passed on together. More come by comparison.
pub const CLAIMS_PASSED_MAX: usize = 64;

/// Services whose catalogs are kept.
pub const SERVICES_KEPT_MAX: usize = 256;

/// Snapshots in a catalog.
pub const ENTRIES_MAX: usize = 512;

/// Most bytes of an encoded catalog: 512 snapshots with manifests of 4 KiB, and as much again for their packs.
pub const CATALOG_BYTES_MAX: usize = 8 << 20;

/// Bytes of entries in one message, unless it is a single larger one, which still fits a frame: a manifest and 1,500
/// packs of under 120 bytes.
pub const CATALOG_PAGE_BYTES: usize = 512 << 10;

/// Catalogs that have come in part.
pub const DRAFTS_MAX: usize = 4;

/// Lines of a service that are kept at once: more mean that for as many take-overs nothing was merged.
pub const LINES_MAX: usize = 16;

/// Lines whose newest catalogs are named in one message. Each takes under 130 bytes, so that they fit a frame.
pub const LINES_TOLD_MAX: usize = SERVICES_KEPT_MAX * 4;

/// Lines remembered as needed no more, so that they are not asked for again.
pub const LINES_COVERED_MAX: usize = 1_024;

/// Term records in a catalog, the last ones.
pub const TERMS_MAX: usize = 128;

/// Heads in a catalog that were merged or released, those of the last terms.
pub const MERGED_MAX: usize = 64;

/// Nodes that hold everything of a service, and nodes that encode.
pub const WARM_MAX: usize = 64;

/// Ranges of bytes, or of numbers, in one list.
pub const RANGES_MAX: usize = 4_096;

/// Nodes remembered that have a catalog which is not here.
pub const OFFERS_MAX: usize = 4;

/// Parts that are worked at at once: those after them wait.
pub const JOBS_ACTIVE: usize = 16;

/// Requests under way at once, to all nodes together.
pub const REQUESTS_MAX: usize = 16;

/// Requests under way at once to one node.
pub const REQUESTS_PER_PEER: usize = 2;

/// Requests served at once.
pub const SERVED_MAX: usize = 16;

/// Bytes asked for and given at a time.
pub const ASK_BYTES_MAX: u64 = 1 << 20;

/// Ranges in one request.
pub const ASK_RANGES_MAX: usize = 64;

/// Nodes named to those who are to ask elsewhere.
pub const HINTS_MAX: usize = 8;

/// Parts for which others wait.
pub const WAITED_PARTS_MAX: usize = 1_024;

/// Nodes that wait for one part. Who finds no room asks again.
pub const WAITERS_MAX: usize = 64;

/// Parts that are made of fragments at once.
pub const REBUILDS_MAX: usize = 2;

/// Parts that are made on the disk at once.
pub const MAKES_AT_ONCE: usize = 2;

/// Events for the keeper that were not yet looked at, and as many messages for it: those after them wait.
pub const KEEPER_EVENTS_MAX: usize = 256;

/// Bytes of messages for the keeper that were not yet looked at.
pub const KEEPER_MESSAGES_BYTES_MAX: usize = 16 << 20;

/// Messages of the keeper queued for one peer; more are lost, and said again.
pub const KEEPER_OUTBOX_MAX: usize = 128;

/// Streams with keepers' messages that a peer may have open at once: one that breaks may be there beside the next.
pub const KEEPER_STREAMS_MAX: u32 = 2;

/// How long the keeper may take to say how it stands: it may be waiting for the disk.
pub const KEEPER_STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two looks at whether what is kept is still here.
pub const KEPT_LOOK: Duration = Duration::from_secs(10);

/// Pause before the disk is tried again that failed to keep something.
pub const KEEP_AGAIN: Duration = Duration::from_secs(2);

/// Bytes of datagrams kept for a connection, in each direction; what comes when it is full pushes out the oldest.
pub const DATAGRAM_BUFFER_BYTES: usize = 64 * 1024;

/// Packets of SWIM that one peer may send at once; it sends a few a second. What was sent while this node was stalled
/// comes together.
pub const PACKETS_AT_ONCE: u64 = 256;

/// Packets of SWIM that one peer may send in a minute.
pub const PACKETS_PER_MINUTE: u64 = 64 * 60;

/// How often it is looked whether somebody is to be audited.
pub const AUDIT_LOOK: Duration = Duration::from_secs(15);

/// Snapshots of whose packs others may be asked at a time.
pub const AUDITED_SNAPSHOTS: usize = 4;

/// Packs of which others may be asked at a time.
pub const AUDITED_PACKS_MAX: usize = 4_096;

/// Messages and requests on the control lane that one peer may send at once.
pub const MESSAGES_AT_ONCE: u64 = 4_096;

/// Messages and requests on the control lane that one peer may send in a minute: twice the heartbeats of 256 services.
pub const MESSAGES_PER_MINUTE: u64 = 2_048 * 60;

/// Packets of SWIM that were not yet looked at; more are dropped, as the network might.
pub const SWIM_EVENTS_MAX: usize = 1_024;

/// Facts of one signer that may take the places of others at once: a node that moves or starts again makes one or two.
pub const FACTS_REPLACED_AT_ONCE: u64 = 4;

/// Facts of one signer that may take the places of others in a minute. Others wait, and the newest of each is kept.
pub const FACTS_REPLACED_PER_MINUTE: u64 = 6;

/// Between two comparisons of the roster with some peer.
pub const ROSTER_INTERVAL: Duration = Duration::from_secs(3);

/// Messages of facts that are asked for in a row. The largest roster fits in half as many.
pub const ROSTER_PULLS_MAX: usize = 128;

/// Most bytes of a file with a roster: as many facts as it may have, of under 400 bytes each.
pub const ROSTER_FILE_BYTES_MAX: usize = (ROSTER_ADMISSIONS_MAX + 2 * ROSTER_NODES_MAX) * 400;

/// Invitations that are open at once.
pub const INVITATIONS_MAX: usize = 256;

/// Most bytes of a file with invitations.
pub const INVITATIONS_FILE_BYTES_MAX: usize = INVITATIONS_MAX * 128;

/// Facts that a node is told when it joins, in 40 KiB at most; it hears of the others when it talks to its peers.
pub const JOIN_FACTS: usize = 100;

/// Most bytes of what a node says to join.
pub const JOIN_REQUEST_BYTES_MAX: usize = 1_024;

/// Nodes that join at once.
pub const JOINS_AT_ONCE: usize = 4;

/// How long a node that joins may take for all that it says.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Most nodes that a roster names as admitted, members and removed ones together. Removed ones stay for ever.
pub const ROSTER_NODES_MAX: usize = 2 * PEERS_MAX;

/// Most admissions in a roster. Usually there is one for each node; where an admitting node was removed there are more.
pub const ROSTER_ADMISSIONS_MAX: usize = 2 * ROSTER_NODES_MAX;
