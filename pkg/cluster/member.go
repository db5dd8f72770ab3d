// Package cluster is how a process takes part in the cluster: it announces
// itself to the registry for as long as it lives, and it sees who else is
// there. Placement, routing and ownership belong to those who use the view.
package cluster

import (
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
)

// Role is what a member does.
type Role = registryv1.Role

// The roles.
const (
	Gateway   = registryv1.Role_ROLE_GATEWAY
	Scheduler = registryv1.Role_ROLE_SCHEDULER
	CDN       = registryv1.Role_ROLE_CDN
	Registry  = registryv1.Role_ROLE_REGISTRY
)

// Member is one instance of one service.
type Member struct {
	// ID is unique in its role and survives restarts.
	ID string
	// Role is what the member does.
	Role Role
	// Endpoint is the host:port of its gRPC server.
	Endpoint string
	// DownloadIP and DownloadPort are where peers fetch pieces (CDN only).
	DownloadIP   string
	DownloadPort int32
	// Zone is its failure domain.
	Zone string
	// Capacity weighs it in placement; 0 counts as 1.
	Capacity int32
	// Version is the build that runs.
	Version string
	// Draining members take nothing new.
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

// FromProto converts a member as it comes from the registry.
func FromProto(m *registryv1.Member) Member {
	return Member{
		ID: m.GetId(), Role: m.GetRole(), Endpoint: m.GetEndpoint(),
		DownloadIP: m.GetDownloadIp(), DownloadPort: m.GetDownloadPort(),
		Zone: m.GetZone(), Capacity: m.GetCapacity(), Version: m.GetVersion(),
		Draining: m.GetState() == registryv1.MemberState_MEMBER_STATE_DRAINING,
	}
}
