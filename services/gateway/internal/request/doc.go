// Package request validates what clients send. Each constructor takes a decoded
// message and returns values that the rest of the gateway can rely on, or an
// rpcerr with code InvalidArgument that names the invalid field.
//
// Invariants:
//
//   - The package has no state and makes no calls.
//   - The size of everything that is stored is limited.
//   - An error never repeats a URL or the value of a header, because they may
//     contain credentials.
package request

// TaskID identifies a task. It has 64 lower-case hex digits.
type TaskID string

// PeerID identifies a peer of a task: one download of a client, or a CDN's copy.
type PeerID string

// Piece identifies a piece of a task.
type Piece struct {
	// Num is the number of the piece, starting with 0.
	Num int32
	// Size is the size of the task's pieces in bytes, including their wrapping.
	Size int32
}
