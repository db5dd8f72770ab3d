package e2e

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/test/cluster"
)

func addresses(nodes []*cluster.Supernode) []string {
	var list []string
	for _, n := range nodes {
		list = append(list, n.REST)
	}
	return list
}

func TestThreeSupernodesFetchOnce(t *testing.T) {
	nodes := cluster.StartSupernodes(t, binaries, 3)
	o := source(t)
	f, sum := file(20_000_000, 11)
	o.Put("/f", f)
	tally := download(t, sum, peers(t, 30, o.URL("/f"), addresses(nodes)...))
	onlyCodesOfAHealthyCluster(t, tally)
	require.EqualValues(t, 1, o.Stats("/f").Bodies)
	require.EqualValues(t, f.Size, o.Stats("/f").BytesSent)
}

func TestManyFilesSpreadOverTheCluster(t *testing.T) {
	nodes := cluster.StartSupernodes(t, binaries, 3)
	o := source(t)
	for i := range uint64(12) {
		path := "/" + string(rune('a'+i))
		f, sum := file(200_000, 100+i)
		o.Put(path, f)
		onlyCodesOfAHealthyCluster(t, download(t, sum, peers(t, 3, o.URL(path), addresses(nodes)...)))
		require.EqualValues(t, 1, o.Stats(path).Bodies)
	}
	for _, n := range nodes {
		text, err := metrics(t.Context(), n.REST)
		require.NoError(t, err)
		require.Regexp(t, `supernode_cdn_fetches_total\{result="success"\} [1-9]`, text, "%s fetched nothing of twelve files", n.Name)
	}
}

func TestTwelveProcessesFetchOnce(t *testing.T) {
	services := cluster.StartServices(t, binaries, 3)
	o := source(t)
	f, sum := file(20_000_000, 12)
	o.Put("/f", f)
	tally := download(t, sum, peers(t, 30, o.URL("/f"), services.Gateways...))
	onlyCodesOfAHealthyCluster(t, tally)
	require.EqualValues(t, 1, o.Stats("/f").Bodies)
	for _, endpoint := range services.RPC {
		requireHealthAndReflection(t, endpoint)
	}
}

func requireHealthAndReflection(t *testing.T, endpoint string) {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	h, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	require.NoError(t, err, endpoint)
	require.Equal(t, healthv1.HealthCheckResponse_SERVING, h.GetStatus())
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	require.NoError(t, err)
	require.NoError(t, stream.Send(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{},
	}))
	services, err := stream.Recv()
	require.NoError(t, err)
	require.Contains(t, services.String(), "supernode.")
}

func TestBundlePortsAnswerHealthAndReflection(t *testing.T) {
	requireHealthAndReflection(t, oneSupernode(t).RPC)
}

// A client that knows two supernodes goes on at the other one when the first
// is dead, and what that one owned is taken over once its lease has ended.
func TestClientMovesToTheNextSupernode(t *testing.T) {
	nodes := cluster.StartSupernodes(t, binaries, 2)
	o := source(t)
	f, sum := file(9_000_000, 13)
	o.Put("/f", f)
	download(t, sum, peers(t, 1, o.URL("/f"), nodes[0].REST))
	nodes[0].Kill()
	awaitGone(t, nodes[1], nodes[0])
	configs := peers(t, 1, o.URL("/f"), nodes[0].REST)
	configs[0].Nodes = []string{nodes[0].REST, nodes[1].REST}
	download(t, sum, configs)
}

// awaitGone waits until a supernode's registry says that another is no member
// in any role.
func awaitGone(t *testing.T, asked, gone *cluster.Supernode) {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+asked.RPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := registryv1.NewRegistryServiceClient(conn).WatchMembers(ctx, &registryv1.WatchMembersRequest{})
	require.NoError(t, err)
	for {
		list, err := stream.Recv()
		require.NoError(t, err)
		if !slices.ContainsFunc(list.GetMembers(), func(m *registryv1.Member) bool { return m.GetEndpoint() == gone.RPC }) {
			return
		}
	}
}
