// Package reconciler is what a CDN instance does about the records that name it.
// It follows them (WatchTasks), tells the engine what it is to own, to copy
// and to let go of, asks for repair when a copy of a task is lost, announces
// what is on disk and no record knows, resigns from what cannot be kept, and
// hands over what is owned when the instance drains. It moves no byte and
// decides no placement: that is the engine's, and the registry's.
//
// Invariants:
//   - One goroutine, that of Run, owns all state. Others send it
//     closures; calls to the registry are made beside it, one at a time a task.
//   - What a stream tells holds until the next stream has told everything
//     (complete); only then what was not told again is let go.
//   - Repair is asked for by the first member of [owner, replicas…] alone, and
//     by nobody who does not see itself in the list of members or has no
//     complete stream: who is cut off changes nothing.
//   - Every queue is bounded by the number of tasks: a task waits in it once.
package reconciler
