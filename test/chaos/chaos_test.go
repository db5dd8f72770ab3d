//go:build chaos

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/lab"
	"github.com/supernode-ha/supernode/test/origin"
	"github.com/supernode-ha/supernode/test/pace"
	"github.com/supernode-ha/supernode/test/peer"
)

const (
	// What is wanted of a run.
	seedEnv = "CHAOS_SEED"
	timeEnv = "CHAOS_TIME"

	usualTime = 15 * time.Minute
	ofEach    = 3 // processes of a role
	clients   = 8 // downloads at the same time
	// A download must end within patience, whatever happens: dfget gives a piece
	// that a held process was sending more than a minute.
	patience = 4 * time.Minute
)

var binaries *cluster.Binaries

func TestMain(m *testing.M) {
	built, code := cluster.Isolated(false, false)
	if built == nil {
		os.Exit(code)
	}
	binaries = built
	cluster.VerifyLeaks(m)
}

func settings(t *testing.T) (seed uint64, length time.Duration) {
	t.Helper()
	seed, length = uint64(time.Now().UnixNano()), usualTime
	var err error
	if text := os.Getenv(seedEnv); text != "" {
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, seedEnv)
	}
	if text := os.Getenv(timeEnv); text != "" {
		length, err = time.ParseDuration(text)
		require.NoError(t, err, timeEnv)
	}
	return seed, length
}

// file is what is downloaded.
type file struct {
	path, url, sum string
	size           int64
}

// run is one time of chaos.
type run struct {
	t      *testing.T
	seed   uint64
	layout *cluster.Layout
	hosts  map[string]*lab.Host // by address: every process has its own
	source *origin.Origin
	began  time.Time
	dir    string // of what clients write and processes are given

	buffers peer.Buffers
	// serving are the peers that have downloaded.
	serving sync.WaitGroup

	mu    sync.Mutex // guards what follows
	files []file
	asked map[string]bool // files that somebody downloaded
	tally tally
}

// tally is what came out.
type tally struct {
	right, vanished, wrong, failed, migrations int
	bytes                                      int64
	longest, worstPull                         time.Duration
	codes                                      map[int]int
	told                                       []string // of what went wrong
}

func TestChaos(t *testing.T) {
	seed, length := settings(t)
	t.Logf("%s=%d %s=%s", seedEnv, seed, timeEnv, length)
	// Clients and source are where the hosts are joined.
	at, hosts := cluster.AtHosts(lab.Hosts(t, ofEach*len(Roles())))
	etcds := cluster.RunEtcdsAt(t, binaries, at(0), at(1), at(2))
	o, err := origin.Start(origin.Config{Address: lab.HubIP + ":0"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, o.Close()) })
	r := &run{
		t: t, seed: seed, source: o, dir: t.TempDir(), asked: make(map[string]bool), tally: tally{codes: make(map[int]int)},
		layout: cluster.RunServices(t, binaries, etcds, at, ofEach, nil), hosts: hosts,
	}
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	r.began = time.Now()
	var work sync.WaitGroup
	work.Go(func() { r.strike(ctx, Plan(seed, length, ofEach)) })
	for i := range clients {
		work.Go(func() { r.client(ctx, i) })
	}
	work.Wait()
	r.serving.Wait()
	r.conclude()
}

func (r *run) wrong(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := fmt.Sprintf("%6.1fs ", time.Since(r.began).Seconds()) + fmt.Sprintf(format, args...)
	r.t.Log(text)
	r.tally.told = append(r.tally.told, text)
}

// client downloads one file after another. Who cannot even begin would not
// be able to the next time either.
func (r *run) client(ctx context.Context, number int) {
	random := rand.New(rand.NewPCG(r.seed, 100+uint64(number)))
	for n := 0; ctx.Err() == nil; n++ {
		if err := r.download(ctx, random, number, n); err != nil {
			r.wrong("client %d ends: %v", number, err)
			return
		}
	}
}

// sizes are those of the files: none, parts of a piece, some pieces, many.
func sizes() []int64 { return []int64{0, 300_000, 5_000_000, 5_000_000, 12_000_000, 40_000_000} }

// choose gives a new file, or one that others download or have.
func (r *run) choose(random *rand.Rand) file {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Few are new: two copies of every one stay on disk.
	if len(r.files) > 0 && random.IntN(6) > 0 {
		return r.files[max(0, len(r.files)-1-random.IntN(6))]
	}
	size := sizes()[random.IntN(len(sizes()))]
	path := fmt.Sprintf("/%d", len(r.files))
	f := origin.File{Size: size, Seed: uint64(len(r.files)), ETag: fmt.Sprintf(`"%d"`, len(r.files)), Rate: 8 << 20}
	r.source.Put(path, f)
	made := file{path: path, url: r.source.URL(path), sum: origin.MD5(size, f.Seed), size: size}
	r.files = append(r.files, made)
	return made
}

// download lets a peer download and serve on. The error is why it could not begin.
func (r *run) download(ctx context.Context, random *rand.Rand, number, n int) error {
	f := r.choose(random)
	dir := filepath.Join(r.dir, fmt.Sprint(number, "-", n))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	var nodes []string
	for i, g := 0, r.layout.All(cluster.Gateway); i < len(g); i++ {
		nodes = append(nodes, g[(number+n+i)%len(g)].REST)
	}
	p, err := peer.New(peer.Config{
		Nodes: nodes, KeepOrder: true, IP: fmt.Sprintf("127.%d.%d.%d", 240+number%8, 1+(n/250)%250, 1+n%250),
		Dir: dir, URL: f.url, NoBackSource: true, Buffers: &r.buffers,
	})
	if err != nil {
		return err
	}
	vanishes, leaves := random.IntN(10) == 0, random.IntN(2) == 0
	after, serves := pace.Between(random, 10*time.Millisecond, 3*time.Second), pace.Between(random, 0, 20*time.Second)
	// What has begun is ended, though the time is over.
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	if vanishes {
		defer time.AfterFunc(after, p.Vanish).Stop()
	}
	result, err := p.Download(limit)
	r.note(f, result, err)
	// It serves on for a while, and leaves or vanishes.
	r.serving.Go(func() {
		defer cancel()
		if err == nil {
			pace.Pause(ctx, serves)
		}
		if err == nil && leaves {
			_ = p.Leave(limit) // whom it tells may be dead
		}
		p.Close()
		if err := os.RemoveAll(dir); err != nil {
			r.wrong("%v", err)
		}
	})
	return nil
}

func (r *run) note(f file, result peer.Result, err error) {
	r.mu.Lock()
	t := &r.tally
	r.asked[f.path] = true
	for code, n := range result.Codes {
		t.codes[code] += n
	}
	t.migrations += result.Migrations
	t.worstPull = max(t.worstPull, result.MaxPullTime)
	vanished := errors.Is(err, peer.ErrVanished)
	wrong := err == nil && result.MD5 != f.sum
	switch {
	case vanished:
		t.vanished++
	case wrong:
		t.wrong++
	case err != nil:
		t.failed++
	default:
		t.right++
		t.bytes += f.size
		t.longest = max(t.longest, result.Duration)
	}
	r.mu.Unlock()
	if wrong || err != nil && !vanished {
		r.wrong("%s of %d bytes, %d migrations, answers %v: md5 %s, %v", f.url, f.size, result.Migrations, result.Codes, result.MD5, err)
	}
}

// conclude tells the tally, and fails if anything was wrong.
func (r *run) conclude() {
	var once, sent int64
	for _, f := range r.files {
		if r.asked[f.path] {
			once += f.size
		}
	}
	sent = r.source.Total().BytesSent
	t := r.tally
	r.t.Logf("%s=%d: %d right, %d vanished, %d failed, %d wrong, none went to the source; %d MB downloaded, %d MB of files, source sent %.3fx; "+
		"%d migrations, longest download %s, longest pull %s, answers %v",
		seedEnv, r.seed, t.right, t.vanished, t.failed, t.wrong, t.bytes>>20, once>>20, float64(sent)/float64(max(once, 1)),
		t.migrations, t.longest.Round(time.Millisecond), t.worstPull.Round(time.Millisecond), t.codes)
	for _, text := range t.told {
		r.t.Error(text)
	}
	for code := range t.codes {
		require.Contains(r.t, []int{peer.NoAnswer, 600, 601, 602, 611, 612}, code, "answers to pulls")
	}
	require.Positive(r.t, t.right)
}
