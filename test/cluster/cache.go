package cluster

import (
	"crypto/md5"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/taskid"
)

// Cached is a file that a CDN has before it starts, in pieces of a size that the
// test chooses: of what is fetched they are never smaller than 4 MiB.
type Cached struct {
	// URL is what it is said to have come from; nobody asks there, since
	// its MD5 is known.
	URL string
	// MD5 is that of the content, which a client has to ask for.
	MD5 string

	pieceSize int32
	content   []byte
}

// NewCached cuts content into pieces of a wrapped size.
func NewCached(url string, content []byte, pieceSize int32) *Cached {
	return &Cached{URL: url, MD5: md5Of(content), pieceSize: pieceSize, content: content}
}

// Put writes the file into a home directory as the original leaves it there.
func (c *Cached) Put(t Scope, home string) {
	t.Helper()
	var wrapped []byte
	var lines []string
	room := int(c.pieceSize) - piece.WrapLength
	for rest := c.content; len(rest) > 0; rest = rest[min(len(rest), room):] {
		part := rest[:min(len(rest), room)]
		one := make([]byte, piece.HeadLength, c.pieceSize)
		piece.PutHead(one, len(part), c.pieceSize)
		one = append(append(one, part...), piece.Tail)
		lines = append(lines, piece.Digest(md5Of(one), int32(len(one))))
		wrapped = append(wrapped, one...)
	}
	lines = append(lines, c.MD5)
	check := sha1.Sum([]byte(strings.Join(lines, "")))
	lines = append(lines, hex.EncodeToString(check[:]))
	id := taskid.Compute(c.URL, c.MD5, "", nil)
	meta, err := json.Marshal(map[string]any{
		"taskID": id, "url": c.URL, "pieceSize": c.pieceSize, "httpFileLen": len(c.content), "fileLength": len(wrapped),
		"md5": c.MD5, "realMd5": c.MD5, "finish": true, "success": true,
	})
	if err != nil {
		t.Fatalf("describing a cached file: %v", err)
	}
	base := filepath.Join(home, "repo", "download", id[:3], id)
	if err := os.MkdirAll(filepath.Dir(base), 0o755); err != nil {
		t.Fatalf("making the cache: %v", err)
	}
	for suffix, data := range map[string][]byte{"": wrapped, ".md5": []byte(strings.Join(lines, "\n")), ".meta": meta} {
		if err := os.WriteFile(base+suffix, data, 0o600); err != nil {
			t.Fatalf("writing the cache: %v", err)
		}
	}
}

func md5Of(data []byte) string {
	sum := md5.Sum(data)
	return hex.EncodeToString(sum[:])
}
