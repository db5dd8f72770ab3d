// Package record defines the values that the registry stores, members of the cluster
// and records of tasks, and checks that they are valid. It does not depend on how
// they are sent or stored.
package record

import (
	"cmp"
	"slices"
)

// Role is the service that a member runs. It is part of store keys.
type Role string

// The roles.
const (
	RoleGateway   Role = "gateway"
	RoleScheduler Role = "scheduler"
	RoleCDN       Role = "cdn"
	RoleRegistry  Role = "registry"
)

// Roles returns all roles, in the order of the protobuf enum.
func Roles() []Role { return []Role{RoleGateway, RoleScheduler, RoleCDN, RoleRegistry} }

// State is whether a member accepts new work.
type State string

// The states of a member.
const (
	StateReady    State = "ready"
	StateDraining State = "draining"
)

// MemberKey identifies a member in the cluster.
type MemberKey struct {
	Role Role
	ID   string
}

// Member describes one instance of one service.
type Member struct {
	Role     Role
	ID       string
	Endpoint string // host:port of the gRPC server
	// DownloadIP and DownloadPort are the address that peers download pieces from.
	// Only CDNs have one.
	DownloadIP   string
	DownloadPort int32
	Zone         string
	Capacity     int32 // weight in placement; 0 counts as 1
	Version      string
	State        State
}

// Key returns the key of the member.
func (m Member) Key() MemberKey { return MemberKey{Role: m.Role, ID: m.ID} }

// Compare orders members by role, in the order of Roles, and then by id.
func Compare(a, b Member) int {
	return cmp.Or(cmp.Compare(roleOrder(a.Role), roleOrder(b.Role)), cmp.Compare(a.ID, b.ID))
}

func roleOrder(r Role) int {
	for i, known := range Roles() {
		if r == known {
			return i
		}
	}
	return len(Roles())
}

// Status is the state of the download of a task from its source.
type Status int

// The states of a download.
const (
	StatusUnknown Status = iota // not specified
	StatusWaiting               // no version of the source is known yet
	StatusRunning               // the owner downloads the source
	StatusSuccess               // the owner has the whole content
	StatusFailed                // the download failed
)

// Source identifies a version of a source.
type Source struct {
	Length       int64 // in bytes; negative while unknown
	ETag         string
	LastModified string
}

// Task is the record of a task. Copies of a Task share Source and Replicas, which
// must not be modified in place.
type Task struct {
	ID        string
	URL       string // without user, password and fragment
	Source    *Source
	PieceSize int32 // in bytes, including the wrapping of the piece; 0 while unknown
	Status    Status
	Owner     string // id of the CDN that downloads the task from its source
	// Replicas are the ids of the other CDNs that have or make a copy, in the order in
	// which they become owner.
	Replicas  []string
	Scheduler string // id of the scheduler that answers for the task
	// Epoch grows with every change of Owner or Scheduler.
	Epoch int64
	// Revision is the modification revision of the record in the store. It is 0 if
	// the store has no record.
	Revision int64
}

// OwnerKey returns the member key of the owner.
func (t Task) OwnerKey() MemberKey { return MemberKey{Role: RoleCDN, ID: t.Owner} }

// SchedulerKey returns the member key of the scheduler.
func (t Task) SchedulerKey() MemberKey { return MemberKey{Role: RoleScheduler, ID: t.Scheduler} }

// SameSource reports whether two sources are equal. nil means that the source is
// unknown, and equals only nil.
func SameSource(a, b *Source) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// Copies returns the CDNs that have or make a copy, the owner first, then the
// replicas.
func (t Task) Copies() []string {
	if t.Owner == "" {
		return t.Replicas
	}
	return append([]string{t.Owner}, t.Replicas...)
}

// Names reports whether a CDN is the owner or a replica.
func (t Task) Names(cdn string) bool {
	return cdn != "" && (t.Owner == cdn || slices.Contains(t.Replicas, cdn))
}

// SameAssignment reports whether two records have the same owner and the same
// scheduler.
func (t Task) SameAssignment(other Task) bool {
	return t.Owner == other.Owner && t.Scheduler == other.Scheduler
}

// Equal reports whether two records are equal except for their revisions.
func (t Task) Equal(other Task) bool {
	return t.ID == other.ID && t.URL == other.URL && SameSource(t.Source, other.Source) &&
		t.PieceSize == other.PieceSize && t.Status == other.Status && t.SameAssignment(other) &&
		t.Epoch == other.Epoch && slices.Equal(t.Replicas, other.Replicas)
}

// Copy describes the copy of a task that a CDN has on its disk.
type Copy struct {
	ID        string
	URL       string // without user, password and fragment
	Source    *Source
	PieceSize int32
	// Epoch is the highest epoch of the task that the CDN has received, or 0.
	Epoch int64
	// Whole is set if the CDN has all pieces.
	Whole bool
}

// Matches reports whether the copy is of the version in a record. A piece size or a
// source that the record does not contain yet matches any. Lengths are compared only
// if both are known, because a length may become known only at the end of a download.
func (c Copy) Matches(t Task) bool {
	if t.PieceSize != 0 && t.PieceSize != c.PieceSize {
		return false
	}
	if t.Source == nil {
		return true
	}
	if c.Source == nil {
		return false
	}
	recorded, copied := *t.Source, *c.Source
	if recorded.Length < 0 || copied.Length < 0 {
		recorded.Length, copied.Length = -1, -1
	}
	return recorded == copied
}
