// Package peer is a client of the cluster that behaves on the wire as dfget
// 1.0.6 does, so that tests and benchmarks meet what the clients in the field
// do: the order of calls, the waits, the merging of reports, the migrations,
// the reports that get lost, and the answers that make it hang or die.
//
// Where dfget hangs, a Peer hangs until the whole download times out; where
// dfget does something odd, a Peer does it too, and a comment says so. It is
// no client to be used for its own sake, and it knows nothing of how the
// cluster is built.
//
// What a Peer leaves out: calls between dfget and its own upload server
// (check, rate, finish, ping are function calls here), fsync, and a second
// copy of the file. What it adds is counted in Result, told to Observe, and
// switched on with Faults.
//
//	New ── Download ──▶ serving ── Leave ───▶ gone, the cluster was told
//	           │            └───── Vanish ──▶ gone, nobody was told
//	           └─ an error: still serving what it has, as dfget does
//
// Close ends it in any state and waits for everything it started.
package peer
