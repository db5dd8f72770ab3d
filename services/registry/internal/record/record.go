// Package record is what the registry keeps: members of the cluster and
// records of tasks, as plain values. It says which of them are acceptable, and
// knows neither how they travel nor how they are stored.
package record

import (
	"cmp"
	"slices"
)

// Role is what a member does in the cluster. Its text is part of store keys.
type Role string

// The roles.
const (
	RoleGateway   Role = "gateway"
	RoleScheduler Role = "scheduler"
	RoleCDN       Role = "cdn"
	RoleRegistry  Role = "registry"
)

// Roles gives every role there is, in the order of the contract.
func Roles() []Role { return []Role{RoleGateway, RoleScheduler, RoleCDN, RoleRegistry} }

// State tells whether a member takes new work.
type State string

// The states of a member.
const (
	StateReady    State = "ready"
	StateDraining State = "draining"
)

// MemberKey names a member among all of the cluster.
type MemberKey struct {
	Role Role
	ID   string
}

// Member is one instance of one service.
type Member struct {
	Role     Role
	ID       string
	Endpoint string // host:port of its gRPC server
	// DownloadIP and DownloadPort are where peers fetch pieces (CDN only).
	DownloadIP   string
	DownloadPort int32
	Zone         string
	Capacity     int32 // weight in placement, 0 counts as 1
	Version      string
	State        State
}

// Key names the member.
func (m Member) Key() MemberKey { return MemberKey{Role: m.Role, ID: m.ID} }

// Compare orders members by role, as in the contract, then by id.
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

// Status is how far the fetch of a task is. The zero value is "not told".
type Status int

// The states of a fetch.
const (
	StatusUnknown Status = iota
	StatusWaiting
	StatusRunning
	StatusSuccess
	StatusFailed
)

// Source tells one version of a source from another.
type Source struct {
	Length       int64 // bytes, -1 while unknown
	ETag         string
	LastModified string
}

// Task is all that the cluster has agreed on about a task. Source and
// Replicas are shared between copies and never changed in place.
type Task struct {
	ID        string
	URL       string // without user, password and fragment
	Source    *Source
	PieceSize int32 // wrapped size in bytes, 0 while unknown
	Status    Status
	Owner     string // CDN member id
	Replicas  []string
	Scheduler string // scheduler member id
	Epoch     int64
	// Revision is the store's modification revision, 0 for a record that the
	// store does not have.
	Revision int64
}

// OwnerKey names the member that owns the task.
func (t Task) OwnerKey() MemberKey { return MemberKey{Role: RoleCDN, ID: t.Owner} }

// SchedulerKey names the member that answers for the task.
func (t Task) SchedulerKey() MemberKey { return MemberKey{Role: RoleScheduler, ID: t.Scheduler} }

// SameSource tells whether two source identities, either of them perhaps
// unknown, are equal.
func SameSource(a, b *Source) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// Copies are the CDNs that have a copy or make one, in the order in which they
// take over.
func (t Task) Copies() []string {
	if t.Owner == "" {
		return t.Replicas
	}
	return append([]string{t.Owner}, t.Replicas...)
}

// Names tells whether a CDN is the owner or a replica.
func (t Task) Names(cdn string) bool {
	return cdn != "" && (t.Owner == cdn || slices.Contains(t.Replicas, cdn))
}

// SameHands tells whether owner and scheduler are the same.
func (t Task) SameHands(other Task) bool {
	return t.Owner == other.Owner && t.Scheduler == other.Scheduler
}

// Equal tells whether two records say the same, whatever their revisions.
func (t Task) Equal(other Task) bool {
	return t.ID == other.ID && t.URL == other.URL && SameSource(t.Source, other.Source) &&
		t.PieceSize == other.PieceSize && t.Status == other.Status && t.SameHands(other) &&
		t.Epoch == other.Epoch && slices.Equal(t.Replicas, other.Replicas)
}

// Copy is what a CDN has of a task on its disk.
type Copy struct {
	ID        string
	URL       string // without user, password and fragment
	Source    *Source
	PieceSize int32
	// Epoch is the highest in which the CDN knew the task, 0 for none.
	Epoch int64
	Whole bool
}

// Of tells whether the copy is of the version that a record tells of. A record
// that tells of none yet excludes none.
func (c Copy) Of(t Task) bool {
	if t.PieceSize != 0 && t.PieceSize != c.PieceSize {
		return false
	}
	if t.Source == nil {
		return true
	}
	if c.Source == nil {
		return false
	}
	known, has := *t.Source, *c.Source
	if known.Length < 0 || has.Length < 0 {
		// A length may become known only at the end.
		known.Length, has.Length = -1, -1
	}
	return known == has
}
