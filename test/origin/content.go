package origin

import (
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"io"
	"math/rand/v2"
)

const (
	blockSize = 1 << 20
	chunkSize = 64 << 10
)

// generated is content that is made while it is read. One random block is
// repeated, and every chunk of it is stamped with its number, so that no two
// pieces of a file are the same and yet reading costs no more than copying.
type generated struct {
	block []byte
}

func newGenerated(seed uint64) *generated {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	g := &generated{block: make([]byte, blockSize)}
	_, _ = rand.NewChaCha8(key).Read(g.block) // never fails
	return g
}

// ReadAt fills p with what is at offset; the content has no end.
func (g *generated) ReadAt(p []byte, offset int64) (int, error) {
	read := 0
	for read < len(p) {
		at := offset + int64(read)
		in := int(at % chunkSize)
		start := int(at % blockSize)
		n := copy(p[read:], g.block[start:start+chunkSize-in])
		g.stamp(p[read:read+n], in, at/chunkSize)
		read += n
	}
	return read, nil
}

// stamp marks the first bytes of a chunk with its number. p is what was copied
// from the chunk's byte in on.
func (g *generated) stamp(p []byte, in int, chunk int64) {
	var number [8]byte
	binary.LittleEndian.PutUint64(number[:], uint64(chunk))
	for i := in; i < len(number) && i-in < len(p); i++ {
		p[i-in] ^= number[i]
	}
}

// Reader gives the size bytes of pseudo random content that belong to seed.
// They are always the same ones.
func Reader(size int64, seed uint64) *io.SectionReader {
	return io.NewSectionReader(newGenerated(seed), 0, size)
}

// Content is what Reader gives, in one piece.
func Content(size int64, seed uint64) []byte {
	content := make([]byte, size)
	_, _ = newGenerated(seed).ReadAt(content, 0) // never fails
	return content
}

// MD5 is that of what Reader gives, in hex.
func MD5(size int64, seed uint64) string {
	sum := md5.New()
	_, _ = io.Copy(sum, Reader(size, seed)) // never fails
	return hex.EncodeToString(sum.Sum(nil))
}
