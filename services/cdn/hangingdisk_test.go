package cdn_test

import (
	"context"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn"
)

// hangingFS is a file system that can be made to hang: then calls that read, write, flush
// or unlink do not return.
type hangingFS struct {
	mu      sync.Mutex
	gate    chan struct{} // nil while it does not hang; guarded by mu
	waiting atomic.Int32
}

func (f *hangingFS) hang() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gate = make(chan struct{})
}

func (f *hangingFS) recover() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gate != nil {
		close(f.gate)
		f.gate = nil
	}
}

func (f *hangingFS) pass() {
	f.mu.Lock()
	gate := f.gate
	f.mu.Unlock()
	if gate != nil {
		f.waiting.Add(1)
		<-gate
	}
}

type hangingNode struct {
	*fs.LoopbackNode
	hanging *hangingFS
}

// hangingFile hides the file of the loopback, so that the kernel cannot bypass the hanging
// operations.
type hangingFile struct{ file fs.FileHandle }

func (f *hangingFile) Release(ctx context.Context) syscall.Errno {
	return f.file.(fs.FileReleaser).Release(ctx) //nolint:forcetypeassert // those of a loopback are
}

// WrapChild is part of fs.NodeWrapChilder.
func (n *hangingNode) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	if loopback, ok := child.(*fs.LoopbackNode); ok {
		return &hangingNode{LoopbackNode: loopback, hanging: n.hanging}
	}
	return child
}

func (n *hangingNode) Create(
	ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut,
) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	inode, file, fuseFlags, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	return inode, &hangingFile{file}, fuseFlags, errno
}

func (n *hangingNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	file, fuseFlags, errno := n.LoopbackNode.Open(ctx, flags)
	return &hangingFile{file}, fuseFlags, errno
}

func (n *hangingNode) Write(ctx context.Context, f fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	n.hanging.pass()
	return f.(*hangingFile).file.(fs.FileWriter).Write(ctx, data, off) //nolint:forcetypeassert // those of a loopback are
}

func (n *hangingNode) Read(ctx context.Context, f fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n.hanging.pass()
	return f.(*hangingFile).file.(fs.FileReader).Read(ctx, dest, off) //nolint:forcetypeassert // those of a loopback are
}

func (n *hangingNode) Flush(ctx context.Context, f fs.FileHandle) syscall.Errno {
	n.hanging.pass()
	return f.(*hangingFile).file.(fs.FileFlusher).Flush(ctx) //nolint:forcetypeassert // those of a loopback are
}

func (n *hangingNode) Unlink(ctx context.Context, name string) syscall.Errno {
	n.hanging.pass()
	return n.LoopbackNode.Unlink(ctx, name)
}

// mountHangingFS mounts a hangingFS and returns its directory.
func mountHangingFS(t *testing.T) (string, *hangingFS) {
	t.Helper()
	back, dir := t.TempDir(), t.TempDir()
	f := new(hangingFS)
	var stat syscall.Stat_t
	require.NoError(t, syscall.Stat(back, &stat))
	data := &fs.LoopbackRoot{Path: back, Dev: stat.Dev}
	root := &hangingNode{LoopbackNode: &fs.LoopbackNode{RootData: data}, hanging: f}
	data.RootNode = root
	server, err := fs.Mount(dir, root, &fs.Options{MountOptions: fuse.MountOptions{DirectMount: true}})
	require.NoError(t, err, "mounting a FUSE file system, which takes /dev/fuse and CAP_SYS_ADMIN")
	t.Cleanup(func() {
		f.recover()
		eventually(t, func() bool { return server.Unmount() == nil }) // operations that hung must end first
	})
	return dir, f
}

// If the disk hangs, only the system calls on it block.
func TestHangingDiskFailsTasksAndBlocksNoCall(t *testing.T) {
	home, disk := mountHangingFS(t)
	n := start(t, cdn.Config{HomeDir: home, DiskTimeout: 5 * time.Second})
	content := randomContent(2*full + 1000)
	g := newGate(t, content, full+1000)
	o := serveOrigin(t, withValidators(plainFile(content)))
	whole, hung, later := idOf("whole"), idOf("hung"), idOf("later")
	n.mustSeed(t, whole, o.source(), content)
	stay := n.follow(t, whole, true)
	o.set(withValidators(g))
	stream := n.seedSmall(t, hung, o.source())
	n.awaitPieces(t, hung, 1)

	disk.hang()
	g.open()
	_, err := receiveAll(stream)
	requireReason(t, err, rpcerr.DiskFailed)

	// From now on no call may wait for the disk, not even for DiskTimeout.
	began := time.Now()
	_, err = n.Stat(t.Context(), &cdnv1.StatRequest{TaskId: hung})
	requireReason(t, err, rpcerr.TaskNotFound)
	_, err = receiveAll(n.seedSmall(t, later, o.source()))
	requireReason(t, err, rpcerr.DiskFailed)
	_, err = n.follow(t, hung, false).Recv()
	requireReason(t, err, rpcerr.TaskNotFound)
	_, err = n.Delete(t.Context(), &cdnv1.DeleteRequest{TaskId: whole})
	requireReason(t, err, rpcerr.DiskFailed)
	for range 2 {
		status, _ := n.get(t, path(hung), "bytes="+piece.Range(0, size))
		require.Equal(t, http.StatusNotFound, status)
	}
	_, err = receiveAll(stay)
	requireReason(t, err, rpcerr.TaskDeleted)
	n.stop()
	require.Less(t, time.Since(began), testTimeout, "no call and not the stop waited for the disk")

	disk.recover()
	again := start(t, cdn.Config{HomeDir: unlockedHome(t, home)})
	o.set(file(content, `"v1"`))
	again.mustSeed(t, hung, o.source(), content)
	again.stop()
}

// A download that hangs in a read from disk does not block the stop of the instance.
func TestHangingReadDoesNotBlockTheStop(t *testing.T) {
	home, disk := mountHangingFS(t)
	n := start(t, cdn.Config{HomeDir: home})
	content := randomContent(full)
	o := serveOrigin(t, plainFile(content))
	id := idOf("read")
	_, err := n.seed(t, id, o.source())
	require.NoError(t, err)
	disk.hang()
	got := make(chan error, 1)
	go func() {
		res, err := http.Get("http://" + n.download + path(id))
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
		got <- err
	}()
	eventually(t, func() bool { return disk.waiting.Load() > 0 })
	n.stop()
	require.Error(t, <-got)
	http.DefaultClient.CloseIdleConnections()
}

// unlockedHome waits until operations that hung have released the lock of the directory.
func unlockedHome(t *testing.T, home string) string {
	t.Helper()
	eventually(t, func() bool {
		dir, err := os.Open(home + "/repo/download")
		if err != nil {
			return false
		}
		defer func() { _ = dir.Close() }()
		return syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
	})
	return home
}
