package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Tmpfs mounts a file system of a size and gives its directory.
func Tmpfs(t Scope, size int64) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0755", size)); err != nil {
		t.Fatalf("mounting a tmpfs, which takes CAP_SYS_ADMIN: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmounting a tmpfs: %v", err)
		}
	})
	return dir
}

// Fill writes to a file system until it is full, and gives what frees the
// space again.
func Fill(t Scope, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	file, err := os.Create(path)
	if err != nil {
		t.Fatalf("filling a file system: %v", err)
	}
	defer file.Close() //nolint:errcheck // what is in it does not matter
	block := make([]byte, 1<<20)
	for len(block) > 0 {
		if _, err = file.Write(block); err == nil {
			continue
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("filling a file system: %v", err)
		}
		block = block[:len(block)/2]
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Errorf("freeing space: %v", err)
		}
	}
}
