// Package reconciler reconciles the local disk of a CDN instance with the records that
// name the instance. It watches these records and passes them to the engine as standings.
// It has the registry repair records whose owner or replica is lost, announces copies
// on disk whose records do not name the instance, resigns from tasks that the disk
// cannot store, and moves owned tasks to other CDNs when the instance drains.
//
// It does not copy data, which is the work of the engine, and does not choose the CDNs of
// a task, which is the work of the registry.
//
// Invariants:
//
//   - The goroutine of Run owns the state. Other goroutines send it functions to run.
//     Calls to the registry run in goroutines of their own, at most one per task.
//   - The records of an earlier stream stay in force until the next stream is complete.
//     Only then the tasks that it has not sent are released.
//   - Only the first member among owner and replicas asks for a repair, and only while
//     this instance is a member itself and its stream is complete. An instance that is
//     cut off from the cluster therefore changes nothing.
//   - A task is at most once in the queue for calls and in each set of the inbox. The delay
//     queue may also hold void entries of a task, until their time comes.
package reconciler
