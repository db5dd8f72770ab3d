// Package request is what clients ask, checked: each constructor takes a
// message as it came from the wire and gives values that the rest of the
// gateway can rely on, or an rpcerr of kind InvalidArgument that says which
// field is wrong. Nothing here calls anybody.
package request

// TaskID names a task: 64 lower-case hex digits.
type TaskID string

// PeerID is a client's own name for one download, or that of a CDN's copy.
type PeerID string

// Piece names a piece of a task.
type Piece struct {
	// Num counts from 0.
	Num int32
	// Size is the wrapped piece size in bytes.
	Size int32
}
