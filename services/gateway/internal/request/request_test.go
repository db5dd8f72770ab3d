package request_test

import (
	"math"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/taskid"
	"github.com/supernode-ha/supernode/services/gateway/internal/request"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// goodRegistration returns a valid registration.
func goodRegistration() *dfgetv1.RegisterPeerRequest {
	return &dfgetv1.RegisterPeerRequest{RawUrl: "http://h/f", Cid: "c", Ip: "10.0.0.1", Port: 15000, Path: "/peer/file/a..b"}
}

func TestTaskIDDependsOnlyOnWhatTheClientAsksFor(t *testing.T) {
	for name, change := range map[string]func(*dfgetv1.RegisterPeerRequest){
		taskid.Compute("http://h/f", "", "", nil):                       func(in *dfgetv1.RegisterPeerRequest) { in.TaskId, in.FileLength, in.AsSeed = "x", -9, true },
		taskid.Compute("http://h/g", "", "", nil):                       func(in *dfgetv1.RegisterPeerRequest) { in.TaskUrl = "http://h/g" },
		taskid.Compute("http://h/f", "", "i", nil):                      func(in *dfgetv1.RegisterPeerRequest) { in.Identifier = "i" },
		taskid.Compute("http://h/f", strings.Repeat("ab", 16), "", nil): func(in *dfgetv1.RegisterPeerRequest) { in.Md5, in.Identifier = strings.Repeat("ab", 16), "i" },
		taskid.Compute("http://h/f", "", "", []string{"Range: bytes=0-9"}): func(in *dfgetv1.RegisterPeerRequest) {
			in.Headers = []string{"range:bytes=0-9", "X: ", "Y: z", "no colon"}
		},
	} {
		in := goodRegistration()
		change(in)
		r, err := request.NewRegistration(in)
		require.NoError(t, err)
		require.Equal(t, request.TaskID(name), r.Task)
		require.Equal(t, "http://h/f", r.Source.URL)
		require.NotContains(t, r.Source.Headers, "X: ")
		require.NotContains(t, r.Source.Headers, "no colon")
	}
}

func TestErrorsDoNotContainCredentials(t *testing.T) {
	for _, change := range []func(*dfgetv1.RegisterPeerRequest){
		func(in *dfgetv1.RegisterPeerRequest) { in.RawUrl = "http://user:secret@h:x/" },
		func(in *dfgetv1.RegisterPeerRequest) { in.RawUrl = "ftp://user:secret@h/" },
		func(in *dfgetv1.RegisterPeerRequest) { in.Headers = []string{"Authorization: secret\x00"} },
		func(in *dfgetv1.RegisterPeerRequest) { in.Headers = []string{"Host: secret/"} },
	} {
		in := goodRegistration()
		change(in)
		_, err := request.NewRegistration(in)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "secret")
	}
}

// dfget would report success for an upper-case MD5 and leave no file.
func TestUpperCaseMD5IsRejected(t *testing.T) {
	in := goodRegistration()
	in.Md5 = strings.Repeat("AB", 16)
	_, err := request.NewRegistration(in)
	require.Equal(t, codes.InvalidArgument, rpcerr.From(err).Code)
	require.ErrorContains(t, err, "capital")
}

func TestPullsOfRealClientsAreAccepted(t *testing.T) {
	task := taskid.Compute("u", "", "", nil)
	for _, c := range []struct {
		status, result int32
		pieceRange     string
		want           request.Result
		piece          bool
	}{
		{700, 502, "", request.NoResult, false},
		{700, 0, "", request.NoResult, false},
		{700, 503, piece.Range(3, 4<<20), request.SemiSuccess, true}, // after a migration to another supernode
		{700, 501, "", request.NoResult, false},
		{701, 502, piece.Range(3, 4<<20), request.NoResult, false},
		{701, 500, piece.Range(3, 4<<20), request.Failed, true},
		{702, 501, "", request.Success, false},
		{702, 500, "", request.Failed, false},
	} {
		p, err := request.NewPull(&dfgetv1.PullPiecesRequest{TaskId: task, SrcCid: "c", Status: c.status, Result: c.result, Range: c.pieceRange})
		require.NoError(t, err, c)
		require.Equal(t, c.want, p.Result, c)
		require.Equal(t, c.piece, p.Piece != nil, c)
	}
	for _, status := range []int32{math.MinInt32, 0, 699, 703} {
		_, err := request.NewPull(&dfgetv1.PullPiecesRequest{TaskId: task, SrcCid: "c", Status: status})
		require.Error(t, err)
	}
}

func TestOutcomeRejectsDurationsOutOfRange(t *testing.T) {
	in := &dfgetv1.ReportMetricsRequest{TaskId: taskid.Compute("u", "", "", nil), Cid: "c", Duration: 1.5, FileLength: -1, BacksourceReason: "7"}
	o, err := request.NewOutcome(in)
	require.NoError(t, err)
	require.EqualValues(t, 7, o.BackSourceReason)
	require.EqualValues(t, 1.5e9, o.Duration)
	for _, d := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -0.1, 1e10} {
		in.Duration = d
		_, err := request.NewOutcome(in)
		require.Equal(t, codes.InvalidArgument, rpcerr.From(err).Code)
	}
}

func TestListingLimitIsBounded(t *testing.T) {
	for limit, want := range map[int32]int{0: 500, -1: 10000, 7: 7, math.MaxInt32: 10000} {
		l, err := request.NewListing(&dfgetv1.FetchNetworkRequest{Limit: limit})
		require.NoError(t, err)
		require.Equal(t, want, l.Limit)
	}
}

// FuzzRegistration checks that an accepted registration is valid.
func FuzzRegistration(f *testing.F) {
	f.Add("http://h/f", "", "c", "10.0.0.1", int32(15000), "/p", "", "A: b")
	f.Add("https://u:p@h:8/f?a=b", "http://h/", "a..b", "::1", int32(0), "/../x", strings.Repeat("A", 32), "a")
	f.Fuzz(func(t *testing.T, rawURL, taskURL, cid, ip string, port int32, path, md5, header string) {
		r, err := request.NewRegistration(&dfgetv1.RegisterPeerRequest{
			RawUrl: rawURL, TaskUrl: taskURL, Cid: cid, Ip: ip, Port: port, Path: path, Md5: md5, Headers: []string{header},
		})
		if err != nil {
			if e := rpcerr.From(err); e.Code != codes.InvalidArgument {
				t.Fatalf("%v", err)
			}
			return
		}
		u, err := url.Parse(r.Source.URL)
		addr, ipErr := netip.ParseAddr(r.Peer.IP)
		id := string(r.Peer.ID)
		switch {
		case err != nil, u.Host == "", !strings.HasPrefix(strings.ToLower(r.Source.URL), "http"):
			t.Fatalf("url %q", rawURL)
		case taskid.Check(string(r.Task)) != nil, r.TaskURL == "":
			t.Fatalf("task %q", r.Task)
		case id == "", len(id) > 255, strings.Contains(id, ".."), strings.ContainsAny(id, "/ \t\r\n\x00"):
			t.Fatalf("cid %q", id)
		case ipErr != nil, !addr.Is4(), addr.IsMulticast(), addr.IsUnspecified():
			t.Fatalf("ip %q", ip)
		case r.Peer.Port != 0 && (r.Peer.Port < 15000 || r.Peer.Port > 65000):
			t.Fatalf("port %d", port)
		case path != "" && (path[0] != '/' || strings.Contains(path+"/", "/../") || strings.ContainsFunc(path, unicode.IsControl)):
			t.Fatalf("path %q", path)
		case r.Source.MD5 != "" && !piece.IsMD5(r.Source.MD5):
			t.Fatalf("md5 %q", md5)
		case len(r.Source.Headers) > 0 && strings.ContainsAny(r.Source.Headers[0], "\r\n\x00"):
			t.Fatalf("header %q", header)
		}
	})
}

// FuzzPull checks that an accepted pull is valid.
func FuzzPull(f *testing.F) {
	f.Add(taskid.Compute("u", "", "", nil), "c", "cdnnode:x~y", "0-4194303", int32(503), int32(701))
	f.Add("..", "a/b", "", "9-1", int32(0), int32(700))
	f.Fuzz(func(t *testing.T, task, src, dst, pieceRange string, result, status int32) {
		p, err := request.NewPull(&dfgetv1.PullPiecesRequest{TaskId: task, SrcCid: src, DstCid: dst, Range: pieceRange, Result: result, Status: status})
		if err != nil {
			return
		}
		if taskid.Check(string(p.Task)) != nil || p.Status < request.Started || p.Status > request.Finished ||
			p.Result < request.Failed || p.Result > request.SemiSuccess {
			t.Fatalf("%+v", p)
		}
		if p.Piece != nil && piece.Range(p.Piece.Num, p.Piece.Size) != pieceRange {
			t.Fatalf("%q: %+v", pieceRange, *p.Piece)
		}
	})
}
