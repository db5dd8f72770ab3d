package faults

import (
	"fmt"
	"time"

	"github.com/supernode-ha/supernode/pkg/taskid"
	"github.com/supernode-ha/supernode/test/origin"
)

// file is one at the source that nobody has had before.
type file struct {
	origin.File
	path, url, sum string
	// id is the task's.
	id string
}

func (s *site) newFile(size, rate int64) file {
	name := time.Now().UnixNano()
	f := file{
		File: origin.File{Size: size, Seed: uint64(name), ETag: fmt.Sprintf(`"%d"`, name), Rate: rate},
		path: fmt.Sprintf("/%d", name),
	}
	s.source.Put(f.path, f.File)
	f.sum, f.url = origin.MD5(f.Size, f.Seed), s.source.URL(f.path)
	f.id = taskid.Compute(f.url, "", "", nil)
	return f
}

// sent is what the source has sent of a file.
func (s *site) sent(f file) int64 { return s.source.Stats(f.path).BytesSent }
