package e2e

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/taskid"
	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/origin"
	"github.com/supernode-ha/supernode/test/peer"
)

// oneSupernode runs a bundle by itself.
func oneSupernode(t *testing.T, more ...string) *cluster.Supernode {
	t.Helper()
	return cluster.StartSupernode(t, binaries, cluster.Net(t)(1), t.TempDir(), more...)
}

func TestEveryKindOfDownload(t *testing.T) {
	node := oneSupernode(t)
	o := source(t)
	tls, err := origin.Start(origin.Config{TLS: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tls.Close()) })
	plain, sum := file(9_000_000, 1)
	hidden, locked, basic := plain, plain, plain
	hidden.HideLength = true
	locked.RequireHeader = origin.Header{Name: "X-Token", Value: "secret"}
	basic.BasicAuth = origin.Credentials{User: "me", Password: "pw"}
	whole := origin.Content(2*(piece.MinSize-piece.WrapLength), 3)
	part := md5.Sum(origin.Content(9_000_000, 1)[100:5_000_100])
	tls.Put("/file", plain)

	kinds := map[string]struct {
		file  origin.File
		url   string
		sum   string
		adapt func(*peer.Config)
	}{
		"small":            {file: origin.File{Content: []byte("hello")}, sum: "5d41402abc4b2a76b9719d911017c592"},
		"several pieces":   {file: plain},
		"whole pieces":     {file: origin.File{Content: whole}, sum: sumOf(whole)},
		"empty":            {file: origin.File{}, sum: "d41d8cd98f00b204e9800998ecf8427e"},
		"unknown length":   {file: hidden},
		"md5":              {file: plain, adapt: func(c *peer.Config) { c.MD5 = sum }},
		"identifier":       {file: plain, adapt: func(c *peer.Config) { c.Identifier = "mine" }},
		"header":           {file: locked, adapt: func(c *peer.Config) { c.Headers = []string{"X-Token: secret"} }},
		"range":            {file: plain, sum: hex.EncodeToString(part[:]), adapt: func(c *peer.Config) { c.Headers = []string{"Range: bytes=100-5000099"} }},
		"redirect":         {file: origin.File{Redirect: "/several pieces"}},
		"user in url":      {file: basic, url: "me:pw@"},
		"cdn pattern":      {file: plain, adapt: func(c *peer.Config) { c.Pattern = peer.PatternCDN }},
		"https, insecure":  {url: tls.URL("/file"), adapt: func(c *peer.Config) { c.Insecure = true }},
		"https, own roots": {url: tls.URL("/file") + "?2", adapt: func(c *peer.Config) { c.RootCAs = [][]byte{tls.CA()} }},
		"slow to answer":   {file: withDelay(plain, 3*time.Second)},
	}
	for name, kind := range kinds {
		o.Put("/"+name, kind.file)
	}
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := o.URL("/" + name)
			switch kind.url {
			case "":
			case "me:pw@":
				url = "http://me:pw@" + url[len("http://"):]
			default:
				url = kind.url
			}
			if kind.sum == "" {
				kind.sum = sum
			}
			config := peers(t, 1, url, node.REST)
			if kind.adapt != nil {
				kind.adapt(&config[0])
			}
			tally := download(t, kind.sum, config)
			onlyCodesOfAHealthyCluster(t, tally)
			if kind.url != "" || kind.file.Redirect != "" {
				return
			}
			stats := o.Stats("/" + name)
			if name != "several pieces" { // which the redirect fetches too
				require.EqualValues(t, 1, stats.Requests, "no probe before the fetch")
				require.EqualValues(t, 1, stats.Bodies)
			}
		})
	}
}

func withDelay(f origin.File, d time.Duration) origin.File {
	f.HeaderDelay = d
	return f
}

func sumOf(content []byte) string {
	sum := md5.Sum(content)
	return hex.EncodeToString(sum[:])
}

func TestInsecureIsForOneTaskOnly(t *testing.T) {
	node := oneSupernode(t)
	tls, err := origin.Start(origin.Config{TLS: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tls.Close()) })
	f, sum := file(1000, 1)
	tls.Put("/a", f)
	tls.Put("/b", f)
	lax := peers(t, 1, tls.URL("/a"), node.REST)
	lax[0].Insecure = true
	download(t, sum, lax)
	require.Equal(t, 607, registerCode(t, node.REST, tls.URL("/b")))
}

func TestTwentyPeersAtOnceAreOneBody(t *testing.T) {
	node := oneSupernode(t)
	o := source(t)
	f, sum := file(30_000_000, 2)
	o.Put("/f", f)
	tally := download(t, sum, peers(t, 20, o.URL("/f"), node.REST))
	onlyCodesOfAHealthyCluster(t, tally)
	require.EqualValues(t, 1, o.Stats("/f").Bodies)
	require.EqualValues(t, f.Size, o.Stats("/f").BytesSent)
	require.Positive(t, tally.FromPeers, "peers give to each other")
	require.Equal(t, 20*f.Size, tally.FromCDN+tally.FromPeers)
}

// Lost reports, failing peers and peers that vanish cost time, not downloads.
func TestUnreliablePeers(t *testing.T) {
	node := oneSupernode(t)
	o := source(t)
	f, sum := file(30_000_000, 3)
	o.Put("/f", f)
	configs := peers(t, 12, o.URL("/f"), node.REST)
	configs[0].Faults = peer.Faults{CorruptServed: true}
	configs[1].Faults = peer.Faults{RefuseServed: true}
	configs[2].Faults = peer.Faults{LoseReports: true}
	configs[3].Faults = peer.Faults{LoseEvery: 3}
	tally := download(t, sum, configs)
	onlyCodesOfAHealthyCluster(t, tally)
	require.EqualValues(t, 1, o.Stats("/f").Bodies)
}

func TestPeersThatVanishAreMissedByNobody(t *testing.T) {
	node := oneSupernode(t)
	o := source(t)
	f, sum := file(30_000_000, 4)
	o.Put("/f", f)
	doomed := peers(t, 4, o.URL("/f"), node.REST)
	for i := range doomed {
		doomed[i].Faults = peer.Faults{CrashAfter: 2 + i}
	}
	crashing := make(chan struct{})
	go func() {
		defer close(crashing)
		for _, cfg := range doomed {
			if p, err := peer.New(cfg); err == nil {
				_, _ = p.Download(t.Context())
				p.Close()
			}
		}
	}()
	tally := download(t, sum, peers(t, 6, o.URL("/f"), node.REST))
	<-crashing
	onlyCodesOfAHealthyCluster(t, tally)
}

func TestSourceThatIsCutOffGoesOnWhereItWas(t *testing.T) {
	node := oneSupernode(t)
	o := source(t)
	f, sum := file(20_000_000, 5)
	f.CutAfter, f.CutRequests = 9_000_000, 1
	o.Put("/f", f)
	onlyCodesOfAHealthyCluster(t, download(t, sum, peers(t, 3, o.URL("/f"), node.REST)))
	require.Less(t, o.Stats("/f").BytesSent, f.Size*3/2, "what was there was not fetched again")
}

func TestRestartServesTheCacheAndDoesNotFetchAgain(t *testing.T) {
	ip, home := cluster.Net(t)(1), t.TempDir()
	o := source(t)
	f, sum := file(9_000_000, 6)
	o.Put("/f", f)
	for name, end := range map[string]func(*cluster.Supernode){
		"stopped": func(s *cluster.Supernode) { require.NoError(t, s.Stop()) },
		"killed":  func(s *cluster.Supernode) { s.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			first := cluster.StartSupernode(t, binaries, ip, home)
			download(t, sum, peers(t, 1, o.URL("/f"), first.REST))
			end(first)
			again := cluster.StartSupernode(t, binaries, ip, home)
			download(t, sum, peers(t, 1, o.URL("/f"), again.REST))
			require.EqualValues(t, 1, o.Stats("/f").Bodies)
			require.NoError(t, again.Stop())
		})
	}
}

// The cache directory was written by Dragonfly v1.0.6.
func TestCacheOfTheOriginalIsServed(t *testing.T) {
	const id = "83bd34df6ba4500b2a69546dbd88a6a0c626bdf99c2dd397ad7729099a732aef"
	home := t.TempDir()
	require.NoError(t, os.CopyFS(home, os.DirFS("../../services/cdn/testdata/v1-home")))
	text, err := os.ReadFile(filepath.Join(home, "repo/download/83b", id+".meta"))
	require.NoError(t, err)
	var meta struct{ URL, RealMD5 string }
	require.NoError(t, json.Unmarshal(text, &meta))
	require.Equal(t, id, taskid.Compute(meta.URL, "", "", nil))
	node := cluster.StartSupernode(t, binaries, cluster.Net(t)(1), home)
	// The source of long ago is not there any more.
	download(t, meta.RealMD5, peers(t, 1, meta.URL, node.REST))
}

func TestStopLetsGoInTimeAndLeavesNoHalfFiles(t *testing.T) {
	node := oneSupernode(t, "--grace-period", "6s")
	o := source(t)
	f, _ := file(20_000_000, 7)
	f.StallAfter = 5_000_000
	o.Put("/f", f)
	p, err := peer.New(peers(t, 1, o.URL("/f"), node.REST)[0])
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := p.Download(t.Context())
		done <- err
	}()
	require.NoError(t, o.Await(t.Context(), "/f", func(s origin.Stats) bool { return s.BytesSent >= f.StallAfter }))
	require.NoError(t, node.Stop())
	require.Error(t, <-done, "there was one supernode, and no way back to the source")
	p.Close()
	require.NoError(t, filepath.WalkDir(filepath.Join(node.Home, "repo"), func(path string, d fs.DirEntry, err error) error {
		require.NotContains(t, path, ".tmp")
		return err
	}))
}

func TestWhatCannotWorkRefusesToStart(t *testing.T) {
	node := oneSupernode(t)
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"no address of a machine": {[]string{"--advertise-ip", "0.0.0.0"}, "--advertise-ip"},
		"multicast":               {[]string{"--advertise-ip", "224.0.0.1"}, "--advertise-ip"},
		"ipv6":                    {[]string{"--advertise-ip", "::1"}, "IPv4"},
		"source pattern":          {[]string{"--cdn-pattern", "source"}, "later release"},
		"port taken":              {[]string{"--advertise-ip", node.IP, "--rpc-port", "9000"}, "9000"},
		"home taken":              {[]string{"--advertise-ip", cluster.Net(t)(1), "--home-dir", node.Home}, "in use"},
		"unknown flag":            {[]string{"--no-such-thing"}, "no-such-thing"},
		"missing configuration":   {[]string{"--config", "/no/such/file"}, "/no/such/file"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"--home-dir", t.TempDir(), "--port", "0", "--download-port", "0", "--rpc-port", "0"}, c.args...)
			p := cluster.Start(t, name, binaries.Path("supernode"), args...)
			require.ErrorContains(t, p.Ended(20*time.Second), "exit status 1")
			require.Contains(t, p.Log(), c.says)
		})
	}
}

func TestVersionAndConfig(t *testing.T) {
	version := cluster.Start(t, "version", binaries.Path("supernode"), "version")
	require.NoError(t, version.Ended(20*time.Second))
	require.Contains(t, version.Log(), "supernode")
	config := cluster.Start(t, "config", binaries.Path("supernode"), "config", "--port", "18002", "-D")
	require.NoError(t, config.Ended(20*time.Second))
	require.Contains(t, config.Log(), "listenPort: 18002")
	require.Contains(t, config.Log(), "debug: true")
}

func TestSecondSignalIsNotNeeded(t *testing.T) {
	node := oneSupernode(t)
	require.NoError(t, node.Signal(syscall.SIGINT))
	require.NoError(t, node.Ended(20*time.Second))
}
