package peer_test

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/test/peer"
)

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return content
}

// exchange is one line of what a real dfget 1.0.6 said and was answered.
type exchange struct {
	ContentType, Method, Request, Response, URI, UserAgent string
	Status                                                 int
}

// recorded gives the exchanges of one dfget, told by its IP.
func recorded(t *testing.T, ip string) []exchange {
	t.Helper()
	file, err := os.Open("testdata/dfget-1.0.6.jsonl")
	require.NoError(t, err)
	defer file.Close() //nolint:errcheck // only read
	var all []exchange
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e exchange
		require.NoError(t, json.Unmarshal(lines.Bytes(), &e))
		if strings.Contains(e.URI+e.Request, ip+"-") {
			all = append(all, e)
		}
	}
	require.NoError(t, lines.Err())
	return all
}

var cidPattern = regexp.MustCompile(`127\.0\.4\.\d-\d+-\d{10}\.\d{3}`)

// normal takes out of a request what differs between two runs: who, where and
// when. The recorded dfget was built without a version, and a checksum belongs
// to the content, so these go too; that they are there or not stays.
func normal(method, uri, contentType, userAgent, body string) string {
	var message map[string]any
	if json.Unmarshal([]byte(body), &message) == nil {
		delete(message, "version")
		for _, name := range []string{"hostName", "port", "duration", "superNodeIp", "path", "md5"} {
			if _, ok := message[name]; ok {
				message[name] = "any"
			}
		}
		body = jsonText(message)
	}
	text := strings.Join([]string{method, uri, contentType, userAgent, body}, " ")
	return cidPattern.ReplaceAllString(text, "CID")
}

// distinct gives each request once, in the order of their first appearance: how
// often a waiting dfget asks is chance.
func distinct(requests []string) []string {
	var once []string
	for _, r := range requests {
		if !slices.Contains(once, r) {
			once = append(once, r)
		}
	}
	return once
}

func TestRequestsAreThoseOfARealDfget(t *testing.T) {
	for _, tt := range []struct {
		name, ip string
		length   int64
		change   func(*peer.Config)
	}{
		{"three pieces", "127.0.4.1", 9000000, nil},
		{"md5 and header", "127.0.4.2", 9000000, func(c *peer.Config) { c.Headers = []string{"X-Foo: bar"} }},
		{"empty", "127.0.4.3", 0, func(c *peer.Config) { c.URL = "http://127.0.0.9:9000/empty.bin" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			script := recorded(t, tt.ip)
			if tt.ip == "127.0.4.3" { // that address was used once more, for a file that is not there
				script = slices.DeleteFunc(script, func(e exchange) bool { return e.Status != 200 })
			}
			replay(t, script, tt.ip, tt.length, tt.change)
		})
	}
}

// arrivals is the order in which the recorded pieces arrived: the first and
// the last were told in pulls, those between them in none.
func arrivals(script []exchange, count int) []int {
	var told []int
	for _, e := range script {
		if _, after, ok := strings.Cut(e.URI, "&range="); ok {
			text, _, _ := strings.Cut(after, "&")
			if num, _, err := piece.ParseRange(text); err == nil && !slices.Contains(told, int(num)) {
				told = append(told, int(num))
			}
		}
	}
	order := []int{told[0]}
	for num := range count {
		if !slices.Contains(told, num) {
			order = append(order, num)
		}
	}
	return append(order, told[1:]...)
}

func replay(t *testing.T, script []exchange, ip string, length int64, change func(*peer.Config)) {
	const size = 4 << 20
	count := int(piece.Count(length, size))
	gated := make([]int, count)
	for i := range gated {
		gated[i] = i
	}
	c, n := newCDN(t, length, size, gated...), newNode(t)
	order := arrivals(script, count)
	id := regexp.MustCompile(`[0-9a-f]{64}`).FindString(script[0].Response)
	n.register = func(int, request) (int, string) { return 200, script[0].Response }
	n.metrics = "null\n"
	n.pull = scriptedPulls(n, c, order, id)

	p := newPeer(t, func(cfg *peer.Config) {
		cfg.IP = ip
		if change != nil {
			change(cfg)
		}
		if strings.Contains(script[0].Request, `"md5"`) {
			cfg.MD5 = c.sum()
		}
	}, n.addr())
	result, err := download(t, p)
	require.NoError(t, err)
	requireContent(t, c, result)
	require.NoError(t, p.Leave(context.Background()))

	var want, got []string
	for _, e := range script {
		want = append(want, normal(e.Method, e.URI, e.ContentType, e.UserAgent, e.Request))
	}
	for _, r := range n.calls("") {
		uri := r.path
		if r.query != "" {
			uri += "?" + r.query
		}
		got = append(got, normal(r.method, uri, r.contentType, r.userAgent, r.body))
	}
	require.Equal(t, want[:2], got[:2], "registration and first pull")
	last := len(got) - 3 // metrics twice, service down
	require.Equal(t, want[len(want)-3:], got[last:], "the end")
	require.ElementsMatch(t, distinct(want), distinct(got))
	for _, h := range c.headers() {
		require.Equal(t, "dfget/1.0.6", h.Get("User-Agent"))
		num, _, err := piece.ParseRange(strings.TrimPrefix(h.Get("Range"), "bytes="))
		require.NoError(t, err)
		require.Equal(t, h.Get("pieceNum"), jsonText(num))
		require.Equal(t, h.Get("pieceSize"), "4194304")
	}
}

// scriptedPulls lets the pieces arrive in their recorded order: the first is
// told at once; while its pull is held the others arrive, are reported, and
// only the last of them is told.
func scriptedPulls(n *node, c *cdn, order []int, id string) func(int, request) string {
	cid := "cdnnode:127.0.0.5~" + id
	reported := func(num int) {
		n.await(func(r request) bool {
			return r.path == "/peer/piece/suc" && r.get("pieceRange") == piece.Range(int32(num), c.size)
		})
	}
	return func(count int, r request) string {
		switch count {
		case 1:
			return wait
		case 2:
			c.open(order[0])
			return c.offers(cid, c.addr(), "/download/"+id[:3]+"/"+id, sorted(order)...)
		case 3:
			reported(order[0])
			for _, num := range order[1:] {
				c.open(num)
				reported(num)
			}
		}
		if r.get("range") != piece.Range(int32(order[len(order)-1]), c.size) {
			return wait
		}
		return done(c.sum())
	}
}

func sorted(order []int) []int {
	s := slices.Clone(order)
	slices.Sort(s)
	return s
}

func jsonText(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}
