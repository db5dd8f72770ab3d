package rpc

import (
	"context"
	"maps"
	"slices"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/convert"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Heartbeat records a member or renews its lease.
func (s *Server) Heartbeat(ctx context.Context, req *registryv1.HeartbeatRequest) (*registryv1.HeartbeatResponse, error) {
	member := convert.MemberFrom(req.GetMember())
	if err := member.Check(); err != nil {
		return nil, toStatus(rpcerr.Invalid("%v", err))
	}
	ttl, err := s.Members.Heartbeat(ctx, member)
	if err != nil {
		return nil, toStatus(err)
	}
	return &registryv1.HeartbeatResponse{Ttl: durationpb.New(ttl), Drain: s.Cache.HasDrainMark(member.Key())}, nil
}

// Leave removes a member.
func (s *Server) Leave(ctx context.Context, req *registryv1.LeaveRequest) (*registryv1.LeaveResponse, error) {
	key, err := keyFrom(req.GetRole(), req.GetId())
	if err != nil {
		return nil, toStatus(err)
	}
	if err := s.Members.Leave(ctx, key); err != nil {
		return nil, toStatus(err)
	}
	return &registryv1.LeaveResponse{}, nil
}

// WatchMembers sends the list of members now and after every change. A slow receiver
// gets the latest list when it is ready again, and not those before it.
func (s *Server) WatchMembers(req *registryv1.WatchMembersRequest, stream grpc.ServerStreamingServer[registryv1.WatchMembersResponse]) error {
	roles, err := rolesFrom(req.GetRoles())
	if err != nil {
		return toStatus(err)
	}
	// A cache that is not complete yet must not look like a cluster without members.
	if err := s.wait(stream.Context(), s.Cache.Synced()); err != nil {
		return toStatus(err)
	}
	var last []record.Member
	for first := true; ; first = false {
		all, changed := s.Cache.Members()
		now := ofRoles(all, roles)
		if first || !slices.Equal(now, last) {
			if err := stream.Send(&registryv1.WatchMembersResponse{Members: membersTo(now)}); err != nil {
				return toStatus(err)
			}
			last = now
		}
		if err := s.wait(stream.Context(), changed); err != nil {
			return toStatus(err)
		}
	}
}

func rolesFrom(messages []registryv1.Role) ([]record.Role, error) {
	roles := make([]record.Role, len(messages))
	for i, r := range messages {
		roles[i] = convert.RoleFrom(r)
		if err := check(record.CheckRole(roles[i])); err != nil {
			return nil, err
		}
	}
	return roles, nil
}

// ofRoles returns the members that have one of the roles, or all if there are no
// roles.
func ofRoles(all []record.Member, roles []record.Role) []record.Member {
	return slices.DeleteFunc(slices.Clone(all), func(m record.Member) bool {
		return len(roles) > 0 && !slices.Contains(roles, m.Role)
	})
}

func membersTo(members []record.Member) []*registryv1.Member {
	messages := make([]*registryv1.Member, len(members))
	for i, m := range members {
		messages[i] = convert.MemberTo(m)
	}
	return messages
}

// ListMembers returns the members in the cache, and the loads of the CDNs.
func (s *Server) ListMembers(ctx context.Context, req *registryv1.ListMembersRequest) (*registryv1.ListMembersResponse, error) {
	roles, err := rolesFrom(req.GetRoles())
	if err != nil {
		return nil, toStatus(err)
	}
	if err := s.wait(ctx, s.Cache.Synced()); err != nil {
		return nil, toStatus(err)
	}
	all, _ := s.Cache.Members()
	resp := &registryv1.ListMembersResponse{Members: membersTo(ofRoles(all, roles))}
	loads := s.Cache.Loads()
	for _, id := range slices.Sorted(maps.Keys(loads)) {
		resp.Loads = append(resp.Loads, &registryv1.Load{
			CdnId: id, Owned: int32(loads[id].Owned), Replicated: int32(loads[id].Replicated),
		})
	}
	return resp, nil
}

// DrainMember sets or removes the drain mark of a member.
func (s *Server) DrainMember(ctx context.Context, req *registryv1.DrainMemberRequest) (*registryv1.DrainMemberResponse, error) {
	key, err := keyFrom(req.GetRole(), req.GetId())
	if err != nil {
		return nil, toStatus(err)
	}
	if err := s.Members.Drain(ctx, key, req.GetDrain()); err != nil {
		return nil, toStatus(err)
	}
	return &registryv1.DrainMemberResponse{}, nil
}

// ForgetMember removes a member that does not return.
func (s *Server) ForgetMember(ctx context.Context, req *registryv1.ForgetMemberRequest) (*registryv1.ForgetMemberResponse, error) {
	key, err := keyFrom(req.GetRole(), req.GetId())
	if err != nil {
		return nil, toStatus(err)
	}
	if err := s.Members.Forget(ctx, key); err != nil {
		return nil, toStatus(err)
	}
	return &registryv1.ForgetMemberResponse{}, nil
}

func keyFrom(role registryv1.Role, id string) (record.MemberKey, error) {
	key := record.MemberKey{Role: convert.RoleFrom(role), ID: id}
	return key, check(record.CheckRole(key.Role), record.CheckID(key.ID))
}
