package lab

import (
	"context"
	"io"
	"log"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// unmountLimit is how long a file system may take to come to its end.
const unmountLimit = 10 * time.Second

// Disk is a file system that passes everything on to a directory, until it is
// told to misbehave in what is written. What is read is not touched: much of it
// comes from the kernel's memory anyway.
//
// The process that holds it must not use Dir itself: it would wait for itself.
// Backing holds the same files.
type Disk struct {
	// Dir is where it is mounted, Backing what is behind it.
	Dir, Backing string

	mu      sync.Mutex // guards what follows
	mode    mode
	delay   time.Duration
	changed chan struct{} // closed when the mode changes
}

type mode int

const (
	healthy mode = iota
	failing
	slow
	hanging
)

// NewDisk mounts a disk that works. At the end of the test it is unmounted by
// force, so that nobody stays stuck in it.
func NewDisk(t testing.TB) *Disk {
	t.Helper()
	d := &Disk{Dir: t.TempDir(), Backing: t.TempDir(), changed: make(chan struct{})}
	data := &fs.LoopbackRoot{Path: d.Backing}
	root := &node{LoopbackNode: &fs.LoopbackNode{RootData: data}, disk: d}
	data.RootNode = root
	server, err := fs.Mount(d.Dir, root, &fs.Options{MountOptions: fuse.MountOptions{
		DirectMountStrict: true, MaxWrite: 1 << 20, FsName: "lab", Name: "lab", DisableXAttrs: true,
		Logger: log.New(io.Discard, "", 0), // answers that nobody waits for any more are no news
	}})
	if err != nil {
		t.Fatalf("mounting a FUSE file system, which takes /dev/fuse and CAP_SYS_ADMIN: %v", err)
	}
	t.Cleanup(func() {
		d.Fail() // whoever waits in it gets an answer
		// Force aborts the connection, so that nothing is waited for any more.
		if err := unix.Unmount(d.Dir, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
			t.Errorf("unmounting a FUSE file system: %v", err)
		}
		ended := make(chan struct{})
		go func() {
			server.Wait()
			close(ended)
		}()
		select {
		case <-ended:
		case <-time.After(unmountLimit):
			t.Error("a FUSE file system does not end")
		}
	})
	return d
}

// Fail makes every write fail with EIO.
func (d *Disk) Fail() { d.become(failing, 0) }

// Slow makes every write take that much longer.
func (d *Disk) Slow(delay time.Duration) { d.become(slow, delay) }

// Hang makes every write wait until the disk does something else.
func (d *Disk) Hang() { d.become(hanging, 0) }

// Heal makes it work again.
func (d *Disk) Heal() { d.become(healthy, 0) }

func (d *Disk) become(m mode, delay time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mode, d.delay = m, delay
	close(d.changed)
	d.changed = make(chan struct{})
}

// pass is called before anything is written. A signal ends no wait in it: a
// real disk that hangs does not care either.
func (d *Disk) pass() syscall.Errno {
	for {
		d.mu.Lock()
		m, delay, changed := d.mode, d.delay, d.changed
		d.mu.Unlock()
		switch m {
		case failing:
			return syscall.EIO
		case hanging:
			<-changed
		case slow:
			timer := time.NewTimer(delay)
			select {
			case <-timer.C:
				return fs.OK
			case <-changed:
				timer.Stop()
			}
		default:
			return fs.OK
		}
	}
}

// node is a file or directory of a disk.
type node struct {
	*fs.LoopbackNode
	disk *Disk
}

// WrapChild is part of fs.NodeWrapChilder.
func (n *node) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	if loopback, ok := child.(*fs.LoopbackNode); ok {
		return &node{LoopbackNode: loopback, disk: n.disk}
	}
	return child
}

var (
	_ fs.NodeWrapChilder = (*node)(nil)
	_ fs.NodeWriter      = (*node)(nil)
	_ fs.NodeWritever    = (*node)(nil)
	_ fs.NodeFsyncer     = (*node)(nil)
	_ fs.NodeCreater     = (*node)(nil)
	_ fs.NodeMkdirer     = (*node)(nil)
	_ fs.NodeRenamer     = (*node)(nil)
	_ fs.NodeSetattrer   = (*node)(nil)
)

// Write is part of fs.NodeWriter.
func (n *node) Write(ctx context.Context, f fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := n.disk.pass(); errno != fs.OK {
		return 0, errno
	}
	file, ok := f.(fs.FileWriter)
	if !ok {
		return 0, syscall.EBADF
	}
	return file.Write(ctx, data, off)
}

// Writev is part of fs.NodeWritever.
func (n *node) Writev(ctx context.Context, f fs.FileHandle, data [][]byte, off int64) (uint32, syscall.Errno) {
	if errno := n.disk.pass(); errno != fs.OK {
		return 0, errno
	}
	file, ok := f.(fs.FileWritever)
	if !ok {
		return 0, syscall.EBADF
	}
	return file.Writev(ctx, data, off)
}

// Fsync is part of fs.NodeFsyncer.
func (n *node) Fsync(ctx context.Context, f fs.FileHandle, flags uint32) syscall.Errno {
	if errno := n.disk.pass(); errno != fs.OK {
		return errno
	}
	if file, ok := f.(fs.FileFsyncer); ok {
		return file.Fsync(ctx, flags)
	}
	return fs.OK // of a directory
}

// Create is part of fs.NodeCreater.
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.disk.pass(); errno != fs.OK {
		return nil, nil, 0, errno
	}
	inode, file, flags, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	return inode, plain(file), flags, errno
}

// Open is part of fs.NodeOpener.
func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	file, flags, errno := n.LoopbackNode.Open(ctx, flags)
	return plain(file), flags, errno
}

// Mkdir is part of fs.NodeMkdirer.
func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.disk.pass(); errno != fs.OK {
		return nil, errno
	}
	return n.LoopbackNode.Mkdir(ctx, name, mode, out)
}

// Rename is part of fs.NodeRenamer.
func (n *node) Rename(ctx context.Context, name string, to fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if errno := n.disk.pass(); errno != fs.OK {
		return errno
	}
	return n.LoopbackNode.Rename(ctx, name, to, newName, flags)
}

// Setattr is part of fs.NodeSetattrer.
func (n *node) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if errno := n.disk.pass(); errno != fs.OK {
		return errno
	}
	return n.LoopbackNode.Setattr(ctx, f, in, out)
}

// file is an open file whose writes come to us: one that offers its descriptor
// to the kernel would not bring them.
type file struct{ *fs.LoopbackFile }

// PassthroughFd is part of fs.FilePassthroughFder.
func (file) PassthroughFd() (int, bool) { return 0, false }

func plain(f fs.FileHandle) fs.FileHandle {
	if loopback, ok := f.(*fs.LoopbackFile); ok {
		return file{loopback}
	}
	return f
}
