package task

// Status is how the record of a task says that its owner stands.
type Status int

// The states of a record.
const (
	Waiting Status = iota + 1
	Running
	Success
	Failed
)

// Standing is what the record says of a task, as this instance sees it.
type Standing struct {
	// Epoch grows whenever the owner changes.
	Epoch int64
	// Owner is the id of the CDN that owns the task.
	Owner string
	// Mine tells that the owner is this instance.
	Mine bool
	// Others are the ids of the other CDNs of the record, the owner first
	// unless it is this instance.
	Others []string
	// URL is the source without credentials.
	URL string
	// Facts are the source's; the piece size is 0 while they are unknown.
	Facts Facts
	// Status is how the owner stands.
	Status Status
}

// Inventory is what is on disk of a task.
type Inventory struct {
	// ID names the task.
	ID ID
	// URL is the source without credentials.
	URL string
	// Facts are those that the pieces are of.
	Facts Facts
	// Epoch is the last one that is known here, 0 for none.
	Epoch int64
	// Pieces is how many there are.
	Pieces int
	// Whole tells that there are all.
	Whole bool
}
