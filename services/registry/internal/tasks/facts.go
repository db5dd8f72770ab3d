package tasks

import (
	"github.com/supernode-ha/supernode/services/registry/internal/record"
	"github.com/supernode-ha/supernode/services/registry/internal/view"
)

// facts are the members as one call knows them: the copy, corrected by what
// etcd itself said while the call lasts.
type facts struct {
	view *view.View
	told map[record.MemberKey]*record.Member // nil: is none
	// listed tells that etcd was asked for all CDNs.
	listed bool
}

func newFacts(copied *view.View) *facts {
	return &facts{view: copied, told: make(map[record.MemberKey]*record.Member)}
}

func (f *facts) learn(members map[record.MemberKey]*record.Member) {
	for key, member := range members {
		f.told[key] = member
	}
}

// learnCDNs takes the complete list of CDNs: those of the copy that are not in
// it are gone.
func (f *facts) learnCDNs(members []record.Member) {
	copied, _ := f.view.Members()
	for _, m := range copied {
		if m.Role == record.RoleCDN {
			f.told[m.Key()] = nil
		}
	}
	for _, m := range members {
		f.told[m.Key()] = &m
	}
	f.listed = true
}

// member gives a member, nil for one that is none.
func (f *facts) member(key record.MemberKey) *record.Member {
	if member, ok := f.told[key]; ok {
		return member
	}
	if lease, ok := f.view.Member(key); ok {
		return &lease.Member
	}
	return nil
}

// readyCDNs gives the CDNs that take new tasks.
func (f *facts) readyCDNs() []record.Member {
	var ready []record.Member
	take := func(m record.Member) {
		if m.Role == record.RoleCDN && m.State == record.StateReady {
			ready = append(ready, m)
		}
	}
	copied, _ := f.view.Members()
	for _, m := range copied {
		if _, corrected := f.told[m.Key()]; !corrected {
			take(m)
		}
	}
	for _, m := range f.told {
		if m != nil {
			take(*m)
		}
	}
	return ready
}
