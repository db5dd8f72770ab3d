//go:build chaos

package chaos

import (
	"context"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/lab"
	"github.com/supernode-ha/supernode/test/pace"
)

// victims are the processes of a role. They are a cluster.Scope: the test's, but
// for what fails. That is wrong, and ends the goroutine that strikes them, which
// is not the test's.
type victims struct {
	*testing.T
	run  *run
	role cluster.Role
}

var _ cluster.Scope = (*victims)(nil)

// Fatalf tells what is wrong and ends the goroutine.
func (v *victims) Fatalf(format string, args ...any) {
	v.run.wrong("%s: "+format, append([]any{v.role}, args...)...)
	runtime.Goexit()
}

// TempDir makes a directory that is there until the end.
func (v *victims) TempDir() string {
	dir, err := os.MkdirTemp(v.run.dir, "process")
	if err != nil {
		v.Fatalf("making a directory: %v", err)
	}
	return dir
}

// strike deals the blows, those of each role by itself.
func (r *run) strike(ctx context.Context, plan []Blow) {
	blows := make(map[cluster.Role][]Blow)
	for _, b := range plan {
		blows[b.Role] = append(blows[b.Role], b)
	}
	var roles sync.WaitGroup
	for role, own := range blows {
		v := &victims{T: r.t, run: r, role: role}
		roles.Go(func() { v.strike(ctx, own) })
	}
	roles.Wait()
}

// strike deals the blows of the role one after the other, each when its time has
// come, and undoes it when that is over. To stop and to start again may take
// longer than planned: the next one waits until the role has been left alone for
// calmLeast. Behind one that cannot be undone there is no next.
func (v *victims) strike(ctx context.Context, blows []Blow) {
	var undone time.Time
	for _, b := range blows {
		at := v.run.began.Add(b.At)
		if earliest := undone.Add(calmLeast); earliest.After(at) {
			at = earliest
		}
		if !pace.Pause(ctx, time.Until(at)) {
			return
		}
		v.Log(b)
		undo := v.deal(b)
		pace.Pause(ctx, b.For)
		undo()
		undone = time.Now()
	}
}

// process is a node or a member of etcd.
type process interface {
	Kill()
	Signal(s syscall.Signal) error
	Stop() error
}

func (v *victims) deal(b Blow) (undo func()) {
	p, again := v.process(b.Role, b.Number)
	host := v.hostOf(b.Role, b.Number)
	switch b.Kind {
	case Hold:
		v.check(b, p.Signal(syscall.SIGSTOP))
		return func() { v.check(b, p.Signal(syscall.SIGCONT)) }
	case Stop:
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := p.Stop(); err != nil && b.Role != Etcd {
				v.run.wrong("%s: %v", b, err)
			}
		}()
		return func() {
			<-done
			again()
		}
	case Cut:
		host.Cut(v)
		return func() { host.Heal(v) }
	case Part:
		var others []*lab.Host
		for i := range ofEach {
			if other := v.hostOf(b.From, i); other != host {
				others = append(others, other)
			}
		}
		host.Part(v, others...)
		return func() { host.Join(v, others...) }
	default:
		p.Kill()
		return again
	}
}

// process gives one of a role, and how it is started again.
func (v *victims) process(role cluster.Role, number int) (p process, again func()) {
	if role == Etcd {
		e := v.run.layout.Etcds[number]
		return e, func() { e.Launch(v) }
	}
	n := v.run.layout.All(role)[number]
	return n, func() {
		n.Launch(v)
		n.Await(v)
	}
}

func (v *victims) hostOf(role cluster.Role, number int) *lab.Host {
	if role == Etcd {
		host, _, err := net.SplitHostPort(v.run.layout.Etcds[number].Endpoint)
		if err != nil {
			v.Fatalf("%v", err)
		}
		return v.run.hosts[host]
	}
	return v.run.hosts[v.run.layout.All(role)[number].IP]
}

func (v *victims) check(b Blow, err error) {
	if err != nil {
		v.run.wrong("%s: %v", b, err)
	}
}
