// Package peer simulates dfget 1.0.6 for a server that is measured: it makes the
// calls that dfget makes, in its order and with its waits, and moves no bytes. A
// piece is "downloaded" by waiting. Thousands of peers run in one process with
// little memory and processor time: a goroutine, two connections and 10 KB each.
//
// What dfget does is described in docs of package test/peer, which does the same
// with real bytes. The differences:
//
//   - Calls beside the pulls (piece/suc, piece/error) are made one after the other
//     over a connection of their own. dfget makes them in parallel.
//   - A download fails if its source has crashed, has left, is unreachable or does
//     not have the piece. The peers of one Directory see that without a connection.
//   - Where dfget hangs until the whole download times out, a peer fails at once.
//
// The states of a peer:
//
//	New --Download--> serving --Leave--> gone, the server was told
//	        |-- an error: still serving what it has, as dfget does
//	        +-- ErrCrashed: gone, the server was not told
package peer
