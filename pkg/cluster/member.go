// Package cluster connects a process to the cluster: an Announcer keeps it registered as
// a member, and a View holds the current list of members. The users of the view decide
// about placement, routing and ownership.
//
// Invariants:
//
//   - If the registry is unavailable, nothing stops: the announcer repeats its
//     heartbeats, and the view keeps the last list.
//   - A heartbeat leaves enough time of the lease to ask another registry.
//   - After a heartbeat that says DRAINING, none says READY.
package cluster

import (
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
)

// Role is the service that a member provides.
type Role = registryv1.Role

// The roles.
const (
	Gateway   = registryv1.Role_ROLE_GATEWAY
	Scheduler = registryv1.Role_ROLE_SCHEDULER
	CDN       = registryv1.Role_ROLE_CDN
	Registry  = registryv1.Role_ROLE_REGISTRY
)

// Member describes one instance of one service.
type Member struct {
	// ID is unique among the members of a role and stays the same after a restart.
	ID string
	// Role is the service that the member provides.
	Role Role
	// Endpoint is the host:port of its gRPC server.
	Endpoint string
	// DownloadIP and DownloadPort are the address at which peers fetch pieces (CDN
	// only).
	DownloadIP   string
	DownloadPort int32
	// Zone is the failure domain of the member.
	Zone string
	// Capacity is the weight of the member in placement. 0 counts as 1.
	Capacity int32
	// Version is the version of the build.
	Version string
	// Draining says that the member is about to leave and gets no new work.
	Draining bool
}

func (m Member) proto() *registryv1.Member {
	state := registryv1.MemberState_MEMBER_STATE_READY
	if m.Draining {
		state = registryv1.MemberState_MEMBER_STATE_DRAINING
	}
	return &registryv1.Member{
		Id: m.ID, Role: m.Role, Endpoint: m.Endpoint,
		DownloadIp: m.DownloadIP, DownloadPort: m.DownloadPort,
		Zone: m.Zone, Capacity: m.Capacity, Version: m.Version, State: state,
	}
}

// FromProto converts a member that the registry sent.
func FromProto(m *registryv1.Member) Member {
	return Member{
		ID: m.GetId(), Role: m.GetRole(), Endpoint: m.GetEndpoint(),
		DownloadIP: m.GetDownloadIp(), DownloadPort: m.GetDownloadPort(),
		Zone: m.GetZone(), Capacity: m.GetCapacity(), Version: m.GetVersion(),
		Draining: m.GetState() == registryv1.MemberState_MEMBER_STATE_DRAINING,
	}
}
