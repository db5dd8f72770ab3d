package store

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/taskid"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

const sum = "d41d8cd98f00b204e9800998ecf8427e"

func newID(t *testing.T) task.ID {
	t.Helper()
	id, err := task.ParseID(taskid.Compute(t.Name(), "", "", nil))
	require.NoError(t, err)
	return id
}

// A write to /dev/full fails with the error of a full disk.
func TestWriteToAFullDiskReturnsDiskFull(t *testing.T) {
	file, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	require.NoError(t, err)
	content := &Content{disk: newGuard(time.Minute), file: file}
	require.Equal(t, rpcerr.DiskFull, rpcerr.ReasonOf(content.Write(task.Piece{}, []byte("x"))))
	require.NoError(t, content.Close())
	require.ErrorIs(t, content.Write(task.Piece{}, []byte("x")), os.ErrClosed)
}

func TestContentOfAReplacedVersionCannotBeOpened(t *testing.T) {
	s, err := Open(t.TempDir(), time.Minute)
	require.NoError(t, err)
	id := newID(t)
	write := func(b byte) *Content {
		c, err := s.Create(id, Version{Facts: task.Facts{Length: 1, PieceSize: piece.DefaultSize}})
		require.NoError(t, err)
		wrapped := make([]byte, piece.HeadLength, 6)
		piece.PutHead(wrapped, 1, piece.DefaultSize)
		require.NoError(t, c.Write(task.Piece{MD5: sum, Length: 6}, append(wrapped, b, piece.Tail)))
		return c
	}
	seal := func(c *Content) {
		require.NoError(t, c.Seal(Meta{TaskID: string(id), PieceSize: piece.DefaultSize, FileLength: 6, RealMD5: sum},
			[]task.Piece{{MD5: sum, Length: 6}}))
	}
	old := write('a')
	reader, err := old.Open()
	require.NoError(t, err)
	seal(old)
	sealed, err := old.Open()
	require.NoError(t, err)
	require.NoError(t, sealed.Close())
	saved, err := s.Load(id)
	require.NoError(t, err)

	newer := write('b')
	for _, replaced := range []*Content{old, saved.Content} {
		_, err = replaced.Open()
		require.ErrorIs(t, err, os.ErrNotExist)
	}
	var got [6]byte
	_, err = reader.File.ReadAt(got[:], 0)
	require.NoError(t, err)
	require.EqualValues(t, 'a', got[4], "an open reader still reads the old version")
	require.NoError(t, reader.Close())
	_, err = s.Load(id)
	require.ErrorIs(t, err, ErrAbsent, "the new copy is not complete")
	require.NoError(t, newer.Close())
	_, err = newer.Open()
	require.ErrorIs(t, err, os.ErrNotExist, "it was closed before it was complete")
}

func TestOpenFailsIfTheHomeDirectoryCannotBeCreated(t *testing.T) {
	home := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(home, nil, 0o600))
	_, err := Open(home, time.Minute)
	require.Error(t, err)
}

func FuzzDigests(f *testing.F) {
	f.Add([]byte{})
	f.Add(encodeDigests([]task.Piece{{MD5: sum, Length: 5}}, sum))
	f.Add([]byte(strings.Repeat("\n", 9)))
	f.Fuzz(func(t *testing.T, data []byte) {
		pieces, md5, err := decodeDigests(data)
		if err != nil {
			return
		}
		require.NotEmpty(t, pieces)
		again, sameMD5, err := decodeDigests(encodeDigests(pieces, md5))
		require.NoError(t, err)
		require.Equal(t, md5, sameMD5)
		require.Equal(t, pieces, again)
	})
}

func FuzzMeta(f *testing.F) {
	f.Add([]byte(`{"taskID":"x","pieceSize":4194304,"finish":true,"success":true}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := decodeMeta(data); err == nil {
			require.NotZero(t, m.PieceSize)
		}
	})
}
