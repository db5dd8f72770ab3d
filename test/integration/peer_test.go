package integration

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/taskid"
)

// peer is a client of a scheduler that takes its pieces one after another.
type peer struct {
	t    *testing.T
	desk *desk
	id   string
	task string
	src  *cdnv1.Source
	port int32

	size   int32
	parts  map[int32][]byte
	offers []*schedulerv1.PieceOffer
	report *schedulerv1.PullPiecesRequest // what the next pull says
	from   int32                          // the port of the last piece's source
}

func newPeer(t *testing.T, d *desk, id, url string, headers ...string) *peer {
	return &peer{
		t: t, desk: d, id: id, task: taskid.Compute(url, "", "", headers), parts: make(map[int32][]byte),
		src: &cdnv1.Source{Url: url, Headers: headers},
	}
}

func (p *peer) register() (*schedulerv1.RegisterPeerResponse, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	resp, err := p.desk.RegisterPeer(ctx, &schedulerv1.RegisterPeerRequest{
		TaskId: p.task, TaskUrl: p.src.GetUrl(), Source: p.src,
		Peer: &schedulerv1.Peer{Id: p.id, Ip: "127.0.0.1", Port: p.port, Path: "/peer/file/" + p.id},
	})
	if err != nil {
		return nil, err
	}
	p.size = resp.GetPieceSize()
	if p.report == nil {
		p.report = &schedulerv1.PullPiecesRequest{}
	}
	p.report.Status = schedulerv1.PullStatus_PULL_STATUS_STARTED
	return resp, nil
}

func (p *peer) mustRegister() *schedulerv1.RegisterPeerResponse {
	p.t.Helper()
	resp, err := p.register()
	require.NoError(p.t, err)
	return resp
}

// pull pulls once and keeps the offers.
func (p *peer) pull() (*schedulerv1.Finished, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	p.report.TaskId, p.report.PeerId, p.report.MaxWait = p.task, p.id, durationpb.New(300*time.Millisecond)
	resp, err := p.desk.PullPieces(ctx, p.report)
	if err != nil {
		return nil, err
	}
	p.report = &schedulerv1.PullPiecesRequest{Status: schedulerv1.PullStatus_PULL_STATUS_RUNNING}
	p.offers = append(p.offers, resp.GetOffers().GetItems()...)
	return resp.GetFinished(), nil
}

// work pulls and fetches until enough says so, the task is finished or a pull fails.
func (p *peer) work(enough func() bool) (*schedulerv1.Finished, error) {
	for until := time.Now().Add(patience); !enough(); {
		if time.Now().After(until) {
			return nil, fmt.Errorf("peer %s has only %d pieces", p.id, len(p.parts))
		}
		if len(p.offers) == 0 {
			if done, err := p.pull(); err != nil || done != nil {
				return done, err
			}
			continue
		}
		o := p.offers[0]
		p.offers = p.offers[1:]
		p.fetch(o)
		if len(p.offers) > 0 { // the last one is told with the pull
			if done, err := p.pull(); err != nil || done != nil {
				return done, err
			}
		}
	}
	return nil, nil
}

// fetch takes a piece, unless the peer has it, and notes what is to be said of it.
func (p *peer) fetch(o *schedulerv1.PieceOffer) {
	p.from = o.GetPort()
	result := schedulerv1.PieceResult_PIECE_RESULT_SUCCESS
	if p.parts[o.GetNum()] == nil {
		part, err := get(p.t.Context(), o)
		if err != nil {
			result = schedulerv1.PieceResult_PIECE_RESULT_FAILED
		} else {
			p.parts[o.GetNum()] = part
		}
	}
	p.report.Result, p.report.DstId = result, o.GetPeerId()
	p.report.Piece = &schedulerv1.PieceRef{Num: o.GetNum(), Size: o.GetSize()}
}

func get(ctx context.Context, o *schedulerv1.PieceOffer) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	url := fmt.Sprintf("http://%s:%d%s", o.GetIp(), o.GetPort(), o.GetPath())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Range", "bytes="+piece.Range(o.GetNum(), o.GetSize()))
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	wrapped, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode != http.StatusPartialContent:
		return nil, fmt.Errorf("answered %s", resp.Status)
	case sum(wrapped) != o.GetMd5() || len(wrapped) != int(o.GetLength()):
		return nil, fmt.Errorf("piece %d is not what was announced", o.GetNum())
	}
	return piece.Unwrap(wrapped, o.GetSize())
}

// finish works to the end and checks the content.
func (p *peer) finish(content []byte) {
	p.t.Helper()
	done, err := p.work(func() bool { return false })
	require.NoError(p.t, err)
	require.Equal(p.t, sum(content), done.GetMd5())
	var whole []byte
	for num := range int32(len(p.parts)) {
		whole = append(whole, p.parts[num]...)
	}
	require.Equal(p.t, sum(content), sum(whole))
	require.EqualValues(p.t, len(content), done.GetLength())
}

func sum(b []byte) string {
	s := md5.Sum(b)
	return hex.EncodeToString(s[:])
}
