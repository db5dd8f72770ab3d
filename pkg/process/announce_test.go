package process_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/process"
	"github.com/supernode-ha/supernode/pkg/settings"
)

// fakeRegistry is a registry that passes heartbeats to the test.
type fakeRegistry struct {
	registryv1.UnimplementedRegistryServiceServer
	members chan *registryv1.Member
}

func (r *fakeRegistry) Heartbeat(_ context.Context, in *registryv1.HeartbeatRequest) (*registryv1.HeartbeatResponse, error) {
	select {
	case r.members <- in.GetMember():
	default: // the test needs the first one only
	}
	return &registryv1.HeartbeatResponse{Ttl: durationpb.New(1)}, nil
}

func (*fakeRegistry) Leave(context.Context, *registryv1.LeaveRequest) (*registryv1.LeaveResponse, error) {
	return &registryv1.LeaveResponse{}, nil
}

func TestAnnouncedMemberHasTheZoneTheCapacityAndTheDownloadPort(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	fake := &fakeRegistry{members: make(chan *registryv1.Member, 1)}
	var first *registryv1.Member // set before the process ends
	build := func(_ context.Context, p *process.Process) error {
		registryv1.RegisterRegistryServiceServer(p.RPC, fake)
		p.Serve()
		a := p.Announce(registryv1.NewRegistryServiceClient(p.RPC.Local()), cluster.CDN,
			func(m *cluster.Member) { m.DownloadPort = 7 })
		p.Add("test", func(ctx context.Context) error {
			first = <-fake.members
			err := a.Drain(ctx)
			cancel()
			<-ctx.Done()
			return err
		})
		return nil
	}
	file := filepath.Join(t.TempDir(), "empty.yml")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	cmd := process.Command("cdn", "", build, settings.CDN)
	cmd.SetArgs([]string{
		"--config", file, "--advertise-ip", "127.0.0.1", "--rpc-port", "0", "--zone", "rack-7", "--capacity", "3", "--grace-period", "5s",
	})
	require.NoError(t, cmd.ExecuteContext(ctx))
	require.Equal(t, "rack-7", first.GetZone())
	require.EqualValues(t, 3, first.GetCapacity())
	require.EqualValues(t, 7, first.GetDownloadPort())
}
