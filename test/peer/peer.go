package peer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// What a download can end with, besides what the network says.
var (
	// ErrNeedAuth is a registration answered 608.
	ErrNeedAuth = errors.New("the source demands credentials")
	// ErrNoBackSource is a download that would have gone to the source.
	ErrNoBackSource = errors.New("going back to the source is forbidden")
	// ErrWrongMD5 is a file that is not what it should be. When it came
	// through the cluster dfget reports and prints success here, and leaves no
	// file.
	ErrWrongMD5 = errors.New("wrong md5")
	// ErrTimeout is a download that took longer than it may.
	ErrTimeout = errors.New("the whole download timed out")
	// ErrVanished is a download in the middle of which the peer vanished.
	ErrVanished = errors.New("the peer vanished")

	errClosed = errors.New("the peer is closed")
	errExited = errors.New("the download is over")
)

// Peer is one dfget process and its upload server.
type Peer struct {
	cfg        Config
	addresses  *addresses
	ip         string
	name       string // the task file's, told to the cluster
	cid        string
	path       string
	rec        *recorder
	pieces     *http.Client
	reportNum  atomic.Int64
	downloads  sync.WaitGroup
	life       context.Context // ends with Vanish and Close
	stop       context.CancelCauseFunc
	mu         sync.Mutex // guards what follows
	begun      bool
	server     *uploads // nil in the cdn pattern and before the start
	finishNode string   // where the upload server says goodbye, and of which task
	finishTask string
}

// New checks the configuration, and finds the IP if there is none. Nothing runs
// before Download.
func New(cfg Config) (*Peer, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("configuring a peer: %w", err)
	}
	list, err := parseAddresses(cfg.Nodes, cfg.KeepOrder)
	if err != nil {
		return nil, fmt.Errorf("configuring a peer: %w", err)
	}
	p := &Peer{
		cfg: cfg, addresses: list, ip: cfg.IP,
		rec: &recorder{observe: cfg.Observe, r: Result{Codes: make(map[int]int)}},
	}
	// dfget's is process id and time; the id is drawn, since many peers of one
	// process and moment must differ.
	sign := fmt.Sprintf("%d-%.3f", 1+rand.Int32N(1<<30), float64(time.Now().UnixNano())/float64(time.Second))
	p.name = cfg.Name + "-" + sign
	p.path = filepath.Join(cfg.Dir, p.name)
	p.cid = p.ip + "-" + sign
	dialer := &net.Dialer{Timeout: 30 * time.Second}
	p.pieces = &http.Client{Transport: &http.Transport{
		DialContext: dialer.DialContext, MaxIdleConns: 100, IdleConnTimeout: 90 * time.Second,
	}}
	p.life, p.stop = context.WithCancelCause(context.Background())
	if p.ip == "" {
		p.ip = p.findIP()
		p.cid = p.ip + "-" + sign
	}
	return p, nil
}

// findIP is the address that the first node to accept a connection sees.
func (p *Peer) findIP() string {
	for _, node := range p.addresses.list {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(p.life, "tcp4", node.String())
		if err != nil {
			continue
		}
		_ = conn.Close()
		return conn.LocalAddr().(*net.TCPAddr).IP.String()
	}
	return ""
}

// Cid is what the cluster knows the peer by.
func (p *Peer) Cid() string { return p.cid }

// Addr is where the peer serves, "" when it does not.
func (p *Peer) Addr() string {
	if port := p.port(); port > 0 {
		return net.JoinHostPort(p.ip, fmt.Sprint(port))
	}
	return ""
}

// Result is what the download has done so far.
func (p *Peer) Result() Result { return p.rec.result() }

// Served gives how many pieces and bytes (wrapping included) were sent to
// others.
func (p *Peer) Served() (pieces, bytes int64) {
	if u := p.uploads(); u != nil {
		return u.pieces.Load(), u.bytes.Load()
	}
	return 0, 0
}

func (p *Peer) uploads() *uploads {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.server
}

func (p *Peer) port() int {
	if u := p.uploads(); u != nil {
		return u.port
	}
	return 0
}

// loseReport decides over the next piece/suc report.
func (p *Peer) loseReport() bool {
	n, f := int(p.reportNum.Add(1)), &p.cfg.Faults
	return f.LoseReports || n == f.LoseReport || (f.LoseEvery > 0 && n%f.LoseEvery == 0)
}

// Leave tells the cluster that the peer is going, if its download is over, and
// stops serving when the uploads that have begun are through.
func (p *Peer) Leave(ctx context.Context) error {
	p.mu.Lock()
	server, node, task := p.server, p.finishNode, p.finishTask
	p.mu.Unlock()
	if vanished := p.life.Err() != nil; vanished || server == nil {
		return nil //nolint:nilerr // who has vanished says nothing
	}
	var err error
	if node != "" {
		var calls sync.WaitGroup
		life, cancel := context.WithCancel(ctx)
		a := newAPI(life, &calls, p.cfg.Faults.RequestDelay)
		_, err = a.get(ctx, node, "/peer/service/down", query("taskId", task, "cid", p.cid))
		cancel()
		calls.Wait()
		a.close()
	}
	server.leave(ctx)
	server.wait()
	if err != nil {
		return fmt.Errorf("telling the cluster goodbye: %w", err)
	}
	return nil
}

// Vanish ends the peer as a power cut does: connections break, nobody is told.
// A download under way ends with ErrVanished.
func (p *Peer) Vanish() {
	p.stop(ErrVanished)
	if u := p.uploads(); u != nil {
		u.kill()
	}
}

// Close ends the peer in any state, tells nobody, and returns when everything
// it started is over. The file stays. It may be called twice.
func (p *Peer) Close() {
	p.stop(errClosed)
	p.downloads.Wait()
	if u := p.uploads(); u != nil {
		u.kill()
		u.wait()
	}
	p.pieces.CloseIdleConnections()
}

// begin is true once.
func (p *Peer) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.begun {
		return false
	}
	p.begun = true
	p.downloads.Add(1)
	return true
}

// serve starts the upload server; without one the peer only takes.
func (p *Peer) serve() {
	if p.cfg.Pattern != PatternP2P || p.ip == "" {
		return
	}
	server, err := startUploads(p)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.server = server
	p.mu.Unlock()
	if p.life.Err() != nil { // it vanished meanwhile
		server.kill()
	}
}

func (p *Peer) createFile() (*os.File, error) {
	file, err := os.OpenFile(p.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("making the file: %w", err)
	}
	return file, nil
}
