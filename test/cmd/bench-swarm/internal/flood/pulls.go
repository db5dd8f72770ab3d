package flood

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/httpconn"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/wire"
)

// pullers is on how many connections one peer pulls at the same time.
const pullers = 20

// member is a peer of the task that has registered and pulled once.
type member struct {
	cid, taskID string
	cdn         string // cid of a CDN that it was offered a piece of
	pieces      int
	size        int32 // of a piece
}

// join registers a peer for the file and makes its first pull. Neither is counted.
func (f *Flood) join(ctx context.Context) (member, error) {
	number := int(f.number.Add(1))
	m := member{cid: f.cid(number)}
	conn := httpconn.New(f.cfg.Address)
	defer conn.Close()
	answer, err := conn.Do(ctx, f.out.Post(nil, wire.RegisterPath, f.body(number, m.cid, f.cfg.URL, f.cfg.MD5)))
	if err != nil {
		return m, fmt.Errorf("registering the peer of the flood: %w", err)
	}
	code, task, err := wire.ReadRegistered(answer.Body)
	if err != nil || answer.Status != http.StatusOK || code != wire.CodeSuccess {
		return m, fmt.Errorf("registering the peer of the flood: HTTP status %d, code %d: %w", answer.Status, code, err)
	}
	m.taskID, m.size = task.TaskID, task.PieceSize
	m.pieces = int(piece.Count(task.FileLength, task.PieceSize))
	first := wire.Pull{TaskID: m.taskID, Cid: m.cid, Result: wire.ResultInvalid, Status: wire.StatusStart}
	if answer, err = conn.Do(ctx, f.out.Pull(nil, first)); err != nil {
		return m, fmt.Errorf("the first pull of the peer of the flood: %w", err)
	}
	var offered wire.Answer
	if err := offered.Read(answer.Body); err != nil {
		return m, fmt.Errorf("the first pull of the peer of the flood: %w", err)
	}
	for _, o := range offered.Offers {
		if cid := string(o.Cid); wire.IsCDN(cid) {
			m.cdn = cid
		}
	}
	return m, nil
}

// pull lets one peer pull on many connections until the context ends. None of them
// waits for the answers of the others.
func (f *Flood) pull(ctx context.Context) error {
	m, err := f.join(ctx)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	for range pullers {
		all.Go(func() {
			conn := httpconn.New(f.cfg.Address)
			defer conn.Close()
			var request []byte
			for ctx.Err() == nil {
				request = f.out.Pull(request[:0], f.anyPull(m))
				f.tally.sent.Add(1)
				f.tally.answered(conn.Do(ctx, request))
			}
		})
	}
	all.Wait()
	return nil
}

// anyPull returns a pull without a report, or with one that says that a piece came
// from the CDN, or that it did not. Only the first half of the pieces is reported, so
// that the peer never has all of them.
func (f *Flood) anyPull(m member) wire.Pull {
	pull := wire.Pull{TaskID: m.taskID, Cid: m.cid, Result: wire.ResultInvalid, Status: wire.StatusRunning}
	results := []int{wire.ResultInvalid, wire.ResultSemi, wire.ResultFail}
	if result := results[f.draw(len(results))]; result != wire.ResultInvalid && m.cdn != "" {
		pull.Result, pull.From = result, m.cdn
		pull.Piece = wire.Piece{Num: int32(f.draw((m.pieces + 1) / 2)), Size: m.size} //nolint:gosec // a file has few pieces
	}
	return pull
}
