package peer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/httpconn"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/record"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/wire"
)

const (
	version = "1.0.6"
	// metricsTries is how often the end of a download is reported at most.
	metricsTries = 2
	bitsPerWord  = 64
)

// ErrCrashed is returned for a download in the middle of which the peer crashed,
// as it was configured to.
var ErrCrashed = errors.New("the peer crashed")

// Config is what a peer downloads, and what goes wrong with it.
type Config struct {
	// Address is the server's host:port.
	Address string
	// Number tells the peers of a process apart.
	Number int
	// URL is the source's. MD5 is that of the content, or empty.
	URL, MD5 string
	// PieceTime is the time that the download of a piece takes.
	PieceTime time.Duration
	// Fail is the share of downloads of pieces that fail.
	Fail float64
	// CrashAfter is the share of the pieces after which the peer crashes; 0 is
	// never.
	CrashAfter float64
	// Unreachable makes every download from this peer fail, Lies makes it report
	// pieces that it does not have.
	Unreachable, Lies bool
	// Seed draws its chances.
	Seed uint64
}

// Deps is what peers share.
type Deps struct {
	// Record counts their calls.
	Record *record.Recorder
	// Directory holds those that serve.
	Directory *Directory
}

// state is where a piece is at the peer.
type state uint8

const (
	missing state = iota
	running
	present
)

// Peer is one download, and what serves it to others afterwards.
type Peer struct {
	cfg  Config
	deps Deps
	id   identity
	out  wire.Writer

	// The goroutine of Download owns these.
	began    time.Time
	pulls    *httpconn.Conn
	buffer   []byte // for requests
	answer   wire.Answer
	random   *rand.Rand
	pieces   []state
	running  int    // pieces in state running
	cdn      string // cid of the latest CDN
	minSleep time.Duration

	// These do not change after the registration.
	taskID string
	length int64
	size   int32 // of a wrapped piece

	queue   queue
	reports reports
	written []atomic.Uint64 // a bit for each piece
	arrived atomic.Int32    // bits in written
}

// New returns a peer. Nothing is called before Download.
func New(cfg Config, deps Deps) (*Peer, error) {
	out, err := wire.NewWriter(cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("making a peer: %w", err)
	}
	return &Peer{
		cfg: cfg, deps: deps, id: newIdentity(cfg.Number, time.Now()), out: out,
		pulls: httpconn.New(cfg.Address), minSleep: firstSleep, queue: newQueue(), reports: newReports(cfg.Address),
		random: rand.New(rand.NewPCG(cfg.Seed, uint64(cfg.Number))), //nolint:gosec // chances, no secret
	}, nil
}

// Pieces returns the number of pieces of the file, 0 before the registration.
func (p *Peer) Pieces() int { return len(p.pieces) }

// Download registers, downloads and reports the end, once. If it returns
// ErrCrashed, the peer is gone; else it serves what it has until Leave.
func (p *Peer) Download(ctx context.Context) error {
	defer p.pulls.Close()
	p.began = time.Now()
	if err := p.register(ctx); err != nil {
		return fmt.Errorf("registering: %w", err)
	}
	p.deps.Directory.add(p)
	err := p.pullAll(ctx)
	if errors.Is(err, ErrCrashed) {
		p.deps.Directory.remove(p)
		p.reports.cancel()
		return err
	}
	p.reports.finish()
	if ctx.Err() == nil {
		p.reportEnd(ctx, err == nil)
	}
	return err
}

// Leave tells the server that the peer serves no more. It does nothing if the peer
// is not registered.
func (p *Peer) Leave(ctx context.Context) error {
	if p.taskID == "" {
		return nil
	}
	p.deps.Directory.remove(p)
	conn := httpconn.New(p.cfg.Address)
	defer conn.Close()
	answer, err := conn.Do(ctx, p.out.Leave(nil, p.taskID, p.id.cid))
	if err == nil && answer.Status != http.StatusOK {
		err = statusError(answer)
	}
	if err != nil {
		return fmt.Errorf("reporting that the peer leaves: %w", err)
	}
	p.deps.Record.Call(record.Other, answer.Took)
	return nil
}

func (p *Peer) register(ctx context.Context) error {
	var err error
	p.buffer, err = p.out.Register(p.buffer[:0], wire.Registration{
		RawURL: p.cfg.URL, Cid: p.id.cid, IP: p.id.ip, HostName: p.id.host, Port: p.id.port, Path: p.id.path,
		Version: version, MD5: p.cfg.MD5,
	})
	if err != nil {
		return err
	}
	answer, err := p.pulls.Do(ctx, p.buffer)
	if err != nil {
		return err
	}
	p.deps.Record.Call(record.Register, answer.Took)
	if answer.Status != http.StatusOK {
		return statusError(answer)
	}
	code, task, err := wire.ReadRegistered(answer.Body)
	switch {
	case err != nil:
		return err
	case code != wire.CodeSuccess:
		return fmt.Errorf("code %d: %.200s", code, answer.Body)
	case task.FileLength < 0:
		return errors.New("the source does not say how long the file is")
	}
	count := piece.Count(task.FileLength, task.PieceSize)
	if count < 1 {
		return fmt.Errorf("%d bytes in pieces of %d bytes", task.FileLength, task.PieceSize)
	}
	p.taskID, p.length, p.size = task.TaskID, task.FileLength, task.PieceSize
	p.pieces = make([]state, count)
	p.written = make([]atomic.Uint64, (count+bitsPerWord-1)/bitsPerWord)
	return nil
}

// reportEnd reports how the download ended, once more if the answer's code is not
// the one that dfget expects. dfget ignores whether that succeeds.
func (p *Peer) reportEnd(ctx context.Context, success bool) {
	request, err := p.out.Metrics(p.buffer[:0], wire.Metrics{
		IP: p.id.ip, BacksourceReason: "0", Cid: p.id.cid, Duration: time.Since(p.began).Seconds(), FileLength: p.length,
		Port: p.id.port, Success: success, TaskID: p.taskID,
	})
	if err != nil {
		p.deps.Record.Refused.Add(1)
		return
	}
	for range metricsTries {
		answer, err := p.pulls.Do(ctx, request)
		if err != nil || answer.Status != http.StatusOK {
			p.deps.Record.Refused.Add(1)
			continue
		}
		p.deps.Record.Call(record.Other, answer.Took)
		if code, err := wire.ReadCode(answer.Body); err == nil && code == wire.CodeMetricsTaken {
			return
		}
	}
}

// serves reports whether another peer that asks for a piece gets it.
func (p *Peer) serves(num int32) bool {
	word := int(num) / bitsPerWord
	return word < len(p.written) && p.written[word].Load()>>(num%bitsPerWord)&1 == 1
}

func statusError(a httpconn.Answer) error {
	return fmt.Errorf("HTTP status %d: %.200s", a.Status, a.Body)
}
