package cdn_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/cdn"
)

// homeWithPart creates a home directory with the first pieces of a task, as a process
// leaves it that is killed. base is the path of the content.
func homeWithPart(t *testing.T, id string, o *origin, content []byte, pieces int) (home, base string) {
	t.Helper()
	n := start(t, cdn.Config{})
	o.set(withValidators(newGate(t, content, pieces*full+1000)))
	n.seedSmall(t, id, o.source())
	n.awaitPieces(t, id, pieces)
	n.stop()
	return n.home, filepath.Join(n.home, "repo", "download", id[:3], id)
}

// ranges returns the Range headers of all requests from a number on.
func (o *origin) ranges(from int) []string {
	var found []string
	for _, r := range o.seen()[from:] {
		found = append(found, r.Header.Get("Range"))
	}
	return found
}

// size is a small piece size, for fast tests. full is the length of the content of a full
// piece.
const (
	size = 64 << 10
	full = size - piece.WrapLength
)

// seedSmall starts a Seed with small pieces.
func (n *node) seedSmall(t testing.TB, id string, src *cdnv1.Source) grpc.ServerStreamingClient[cdnv1.SeedResponse] {
	t.Helper()
	return n.startSeed(t, &cdnv1.SeedRequest{
		TaskId: id, Source: src, Epoch: 7, Expected: &cdnv1.SourceFacts{Length: -1, PieceSize: size},
	})
}

// rangeOf returns the Range header for the pieces from first to last-1.
func rangeOf(first, last, length int) string {
	return fmt.Sprintf("bytes=%d-%d", first*full, min(last*full, length)-1)
}

func TestRestartResumesThePart(t *testing.T) {
	content := randomContent(5*full + 100)
	length := len(content)
	id := idOf("part")
	editJournal := func(base string, edit func(lines []string) []string) {
		data, err := os.ReadFile(base + ".part")
		require.NoError(t, err)
		text := strings.Join(edit(strings.SplitAfter(string(data), "\n")), "")
		require.NoError(t, os.WriteFile(base+".part", []byte(text), 0o600))
	}
	lineOf := func(num string) func(string) bool {
		return func(line string) bool { return strings.HasPrefix(line, num+" ") }
	}
	for name, c := range map[string]struct {
		spoil func(base string)
		want  []string
	}{
		"as it was": {func(string) {}, []string{rangeOf(4, 6, length)}},
		"torn last line": {func(base string) {
			editJournal(base, func(lines []string) []string { return append(lines, "4 d41d8cd98f00b2") })
		}, []string{rangeOf(4, 6, length)}},
		"nonsense lines": {func(base string) {
			editJournal(base, func(lines []string) []string {
				return append(lines, "\n", "x\n", "-1 d41d8cd98f00b204e9800998ecf8427e:5\n", "99 d41d8cd98f00b204e9800998ecf8427e:5\n", "\xff\xfe\n")
			})
		}, []string{rangeOf(4, 6, length)}},
		"a line of a piece that is not there": {func(base string) {
			editJournal(base, func(lines []string) []string {
				return append(lines, "4 d41d8cd98f00b204e9800998ecf8427e:65536\n")
			})
		}, []string{rangeOf(4, 6, length)}},
		"holes": {func(base string) {
			editJournal(base, func(lines []string) []string {
				return slices.DeleteFunc(slices.DeleteFunc(lines, lineOf("0")), lineOf("2"))
			})
		}, []string{rangeOf(0, 1, length), rangeOf(2, 3, length), rangeOf(4, 6, length)}},
		"bytes that the disk lost": {func(base string) {
			f, err := os.OpenFile(base, os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteAt(make([]byte, 10), size+1000)
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}, []string{rangeOf(1, 2, length), rangeOf(4, 6, length)}},
		"cut content": {func(base string) {
			require.NoError(t, os.Truncate(base, 3*size+5))
		}, []string{rangeOf(3, 6, length)}},
		"unreadable journal": {func(base string) {
			require.NoError(t, os.WriteFile(base+".part", []byte("{"), 0o600))
		}, []string{""}},
		"no content": {func(base string) { require.NoError(t, os.Remove(base)) }, []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			o := serveOrigin(t, nil)
			home, base := homeWithPart(t, id, o, content, 4)
			c.spoil(base)
			o.set(file(content, `"v1"`))
			n := start(t, cdn.Config{HomeDir: home})
			n.mustSeed(t, id, o.source(), content)
			require.Equal(t, c.want, o.ranges(1))
			require.NoFileExists(t, base+".part")
			require.FileExists(t, base+".meta")
		})
	}
}

func TestRestartWithAChangedSource(t *testing.T) {
	content, changed := randomContent(3*full), randomContent(3*full+1)
	id := idOf("part")
	for name, c := range map[string]struct {
		then http.HandlerFunc
		want []byte
	}{
		"changed":   {file(changed, `"v2"`), changed},
		"no ranges": {withValidators(plainFile(changed)), changed},
	} {
		t.Run(name, func(t *testing.T) {
			o := serveOrigin(t, nil)
			home, _ := homeWithPart(t, id, o, content, 2)
			o.set(c.then)
			n := start(t, cdn.Config{HomeDir: home})
			n.mustSeed(t, id, o.source(), c.want)
			require.Len(t, o.seen(), 2, "the answer is used and not requested again")
		})
	}
}

// If the source interrupts the answer for a run of missing pieces, the download is resumed
// within the run.
func TestCutOffRunIsResumedWithinTheRun(t *testing.T) {
	content := randomContent(5 * full)
	id := idOf("part")
	o := serveOrigin(t, nil)
	home, _ := homeWithPart(t, id, o, content, 2)
	o.set(firstThen(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", 2*full, 5*full-1, 5*full))
		cutAfter(content[2*full:], full+1000, nil)(&partial{w}, r)
	}, file(content, `"v1"`)))
	n := start(t, cdn.Config{HomeDir: home})
	n.mustSeed(t, id, o.source(), content)
	require.Equal(t, []string{rangeOf(2, 5, len(content)), rangeOf(3, 5, len(content))}, o.ranges(1))
}

// The Range header of a client is a part of the task. Missing pieces are requested with
// offsets within that range.
func TestPartOfARangedTaskIsResumed(t *testing.T) {
	content := randomContent(4 * full)
	id := idOf("part")
	n := start(t, cdn.Config{})
	o := serveOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 100-%d/%d", 3*full-1, len(content)))
		g := newGate(t, content[100:3*full], 2*full+5)
		withValidators(g)(&partial{w}, r)
	})
	src := o.source()
	src.Headers = []string{fmt.Sprintf("Range: bytes=100-%d", 3*full-1)}
	n.seedSmall(t, id, src)
	n.awaitPieces(t, id, 2)
	n.stop()
	o.set(file(content, `"v1"`))
	again := start(t, cdn.Config{HomeDir: n.home})
	again.mustSeed(t, id, src, content[100:3*full])
	require.Equal(t, []string{fmt.Sprintf("bytes=%d-%d", 100+2*full, 3*full-1)}, o.ranges(1))
}

// Pieces that other copies have are not fetched from the source.
func TestMissingPiecesAreFetchedFromOtherCopies(t *testing.T) {
	content := randomContent(5*full + 7)
	id := idOf("part")
	reg := newFakeRegistry(t)
	o := serveOrigin(t, nil)
	home, _ := homeWithPart(t, id, o, content, 3)
	reg.join(t, "b", cdn.Config{HomeDir: home})
	other, base := homeWithPart(t, id, o, content, 2)
	data, err := os.ReadFile(base + ".part")
	require.NoError(t, err)
	kept := slices.DeleteFunc(strings.SplitAfter(string(data), "\n"), func(line string) bool { return strings.HasPrefix(line, "0 ") })
	require.NoError(t, os.WriteFile(base+".part", []byte(strings.Join(kept, "")), 0o600))
	a := reg.join(t, "a", cdn.Config{HomeDir: other})
	o.set(file(content, `"v1"`))
	facts := &cdnv1.SourceFacts{
		Length: int64(len(content)), PieceSize: size, Etag: `"v1"`, LastModified: modified.Format(http.TimeFormat),
	}
	_, err = receiveAll(reg.nodes["b"].follow(t, id, false)) // this loads its partial copy from disk
	require.Error(t, err)
	eventually(t, func() bool { return a.isMember("b") })
	got, err := receiveAll(a.startSeed(t, &cdnv1.SeedRequest{
		TaskId: id, Source: o.source(), Epoch: 9, Expected: facts, Copies: []string{"gone", "b"},
	}))
	require.NoError(t, err)
	a.check(t, id, got, content)
	require.Equal(t, []string{rangeOf(3, 6, len(content))}, o.ranges(2))

	// An instance without pieces makes no request to the source if the other copies have
	// all pieces.
	o.set(answer(500))
	c := reg.join(t, "c", cdn.Config{})
	eventually(t, func() bool { return c.isMember("a") })
	got, err = receiveAll(c.startSeed(t, &cdnv1.SeedRequest{
		TaskId: id, Source: o.source(), Epoch: 10, Expected: facts, Copies: []string{"b", "a"},
	}))
	require.NoError(t, err)
	c.check(t, id, got, content)
	require.Len(t, o.seen(), 3)
}
