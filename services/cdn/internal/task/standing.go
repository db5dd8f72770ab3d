package task

// Status is the status of the owner's fetch in the record of a task.
type Status int

// The statuses of a record.
const (
	Waiting Status = iota + 1
	Running
	Success
	Failed
)

// Standing holds the record of a task from the point of view of this instance.
type Standing struct {
	// Epoch increases whenever the owner changes.
	Epoch int64
	// Owner is the id of the CDN that owns the task.
	Owner string
	// Mine says that this instance is the owner.
	Mine bool
	// Others are the ids of the other CDNs of the record. If the owner is another
	// instance, it comes first.
	Others []string
	// URL is the URL of the source without credentials.
	URL string
	// Facts are the facts of the source. Their piece size is 0 while they are unknown.
	Facts Facts
	// Status is the status of the owner's fetch.
	Status Status
}

// Inventory describes the copy of a task that is on disk.
type Inventory struct {
	// ID is the id of the task.
	ID ID
	// URL is the URL of the source without credentials.
	URL string
	// Facts are the facts of the version that the pieces belong to.
	Facts Facts
	// Epoch is the epoch in which the copy was created, 0 if it is unknown.
	Epoch int64
	// Pieces is the number of pieces on disk.
	Pieces int
	// Whole says that all pieces are on disk.
	Whole bool
}
