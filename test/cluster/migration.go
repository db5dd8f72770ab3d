package cluster

import (
	"sync"
	"testing"
	"time"

	"github.com/supernode-ha/supernode/test/peer"
)

// Migration is a download that began at one supernode and ended at another.
type Migration struct {
	// Result is what the peer did.
	Result peer.Result
	// Second is where it ended, and Ended when.
	Second *Supernode
	Ended  time.Time
}

// Migrate has a peer download a file from one supernode, which is killed when so
// many of the pieces have arrived, and lets it go on at another one, which has
// the file and was never told of the peer: all who remembered what it has died
// with the first. cfg is what else is to be said of the peer. Nothing holds the
// other pieces back but its LocalLimit.
func Migrate(t testing.TB, b *Binaries, file *Cached, enough int, cfg peer.Config) Migration {
	t.Helper()
	address := Net(t)
	start := func(host int) *Supernode {
		home := t.TempDir()
		file.Put(t, home)
		return StartSupernode(t, b, address(host), home)
	}
	first, second := start(1), start(2)
	cfg.Nodes, cfg.KeepOrder = []string{first.REST, second.REST}, true
	cfg.IP, cfg.Dir, cfg.URL, cfg.MD5, cfg.NoBackSource = address(3), t.TempDir(), file.URL, file.MD5, true
	var reached <-chan struct{}
	cfg.Observe, reached = untilArrived(enough, cfg.Observe)
	p, err := peer.New(cfg)
	if err != nil {
		t.Fatalf("making the peer: %v", err)
	}
	defer p.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := p.Download(t.Context())
		ended <- err
	}()
	select {
	case <-reached:
	case err := <-ended:
		t.Fatalf("it ended before it had %d pieces: %v", enough, err)
	}
	first.Kill()
	if err := <-ended; err != nil {
		t.Fatalf("going on at the second supernode: %v", err)
	}
	at := time.Now()
	result := p.Result()
	if result.Migrations != 1 {
		t.Fatalf("it migrated %d times", result.Migrations)
	}
	return Migration{Result: result, Second: second, Ended: at}
}

// untilArrived passes on what happens to a peer, and closes reached when so many
// pieces have arrived. One that arrives again counts once.
func untilArrived(enough int, observe func(peer.Event)) (all func(peer.Event), reached <-chan struct{}) {
	done := make(chan struct{})
	var mu sync.Mutex // guards arrived
	arrived := make(map[int]bool)
	reach := sync.OnceFunc(func() { close(done) })
	return func(e peer.Event) {
		observe(e)
		if e.Kind != peer.Arrived {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if arrived[e.Piece] = true; len(arrived) >= enough {
			reach()
		}
	}, done
}
