package lab_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/lab"
)

// shell runs a line in another process, as what is tested on a disk is.
func shell(t *testing.T, line string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "sh", "-c", line).CombinedOutput()
	return string(out), err
}

func TestDiskPassesOnWhatItIsGiven(t *testing.T) {
	d := lab.NewDisk(t)
	out, err := shell(t, "cd "+d.Dir+" && mkdir a && echo hello > a/b && mv a/b a/c && cat a/c && flock a true")
	require.NoError(t, err, out)
	require.Equal(t, "hello\n", out)
	text, err := os.ReadFile(filepath.Join(d.Backing, "a", "c"))
	require.NoError(t, err)
	require.Equal(t, "hello\n", string(text))
}

func TestDiskThatFailsAndHeals(t *testing.T) {
	d := lab.NewDisk(t)
	_, err := shell(t, "echo before > "+d.Dir+"/f")
	require.NoError(t, err)
	d.Fail()
	out, err := shell(t, "echo more >> "+d.Dir+"/f")
	require.Error(t, err)
	require.Contains(t, out, "I/O error")
	_, err = shell(t, "echo new > "+d.Dir+"/g")
	require.Error(t, err)
	out, err = shell(t, "cat "+d.Dir+"/f")
	require.NoError(t, err)
	require.Equal(t, "before\n", out)
	d.Heal()
	_, err = shell(t, "echo new > "+d.Dir+"/g")
	require.NoError(t, err)
}

func TestDiskThatIsSlow(t *testing.T) {
	d := lab.NewDisk(t)
	d.Slow(50 * time.Millisecond)
	began := time.Now()
	out, err := shell(t, "echo slow > "+d.Dir+"/f") // a create and a write
	require.NoError(t, err, out)
	require.Greater(t, time.Since(began), 100*time.Millisecond)
}

// A process that is stuck in a disk cannot even be killed until the disk does
// something: that is what real ones do, and what the end of a test must undo.
func TestDiskThatHangsHoldsAProcessUntilItIsReleased(t *testing.T) {
	stuck := make(chan error, 1)
	t.Run("while it lasts", func(t *testing.T) {
		d := lab.NewDisk(t)
		d.Hang()
		// It says so when it is about to be stuck.
		cmd := exec.CommandContext(t.Context(), "sh", "-c", "echo ready; echo x > "+d.Dir+"/f")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "ready\n", line)
		go func() { stuck <- cmd.Wait() }()
		require.NoFileExists(t, filepath.Join(d.Backing, "f"))
		require.Empty(t, stuck)
	})
	// The end of the test above has unmounted the disk.
	select {
	case err := <-stuck:
		require.Error(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("a process is still stuck in a disk that is unmounted")
	}
}

func TestTmpfsIsFullUntilSpaceIsFreed(t *testing.T) {
	dir := lab.Tmpfs(t, 4<<20)
	free := lab.Fill(t, dir)
	require.ErrorIs(t, os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600), syscall.ENOSPC)
	free()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600))
}

// within is how long a connection may take that is to come about, and inVain
// how long one is tried that is not to.
const (
	within = 10 * time.Second
	inVain = time.Second
)

// dial has a host connect to an address, and gives what it said of it.
func dial(t *testing.T, from *lab.Host, ip, port string, limit time.Duration) (string, error) {
	t.Helper()
	args := append(from.Inside(), "timeout", fmt.Sprint(limit.Seconds()), "bash", "-c", "true > /dev/tcp/"+ip+"/"+port)
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
	return string(out), err
}

func TestHostsReachEachOtherUntilOneIsCutOff(t *testing.T) {
	hosts := lab.Hosts(t, 2)
	l, err := net.Listen("tcp4", lab.HubIP+":0")
	require.NoError(t, err)
	defer l.Close()
	accepted := make(chan string)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- conn.RemoteAddr().(*net.TCPAddr).IP.String()
			_ = conn.Close()
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	reach := func(from *lab.Host) {
		t.Helper()
		result := make(chan error, 1)
		go func() {
			_, err := dial(t, from, lab.HubIP, port, within)
			result <- err
		}()
		select {
		case ip := <-accepted:
			require.Equal(t, from.IP, ip)
		case <-time.After(within):
			t.Error("a host does not reach its network")
		}
		require.NoError(t, <-result)
	}
	reach(hosts[0])
	reach(hosts[1])
	hosts[0].Cut(t)
	_, err = dial(t, hosts[0], lab.HubIP, port, inVain)
	require.Error(t, err)
	reach(hosts[1])
	hosts[0].Heal(t)
	reach(hosts[0])
	require.NoError(t, l.Close())
	<-ended
	require.False(t, strings.HasPrefix(hosts[0].IP, "127."))
}

func TestHostsThatArePartedReachOthers(t *testing.T) {
	hosts := lab.Hosts(t, 3)
	// Nobody listens: who is reached refuses at once.
	requireReach := func(from, to *lab.Host, reaches bool) {
		t.Helper()
		limit := inVain
		if reaches {
			limit = within
		}
		out, err := dial(t, from, to.IP, "1", limit)
		require.Error(t, err)
		require.Equal(t, reaches, strings.Contains(out, "refused"), out)
	}
	requireReach(hosts[0], hosts[1], true)
	hosts[0].Part(t, hosts[1])
	requireReach(hosts[0], hosts[1], false)
	requireReach(hosts[1], hosts[0], false)
	requireReach(hosts[0], hosts[2], true)
	requireReach(hosts[2], hosts[1], true)
	hosts[1].Part(t, hosts[0], hosts[2])
	hosts[0].Join(t, hosts[1])
	requireReach(hosts[0], hosts[1], false)
	requireReach(hosts[2], hosts[1], false)
	hosts[1].Join(t, hosts[2], hosts[0])
	requireReach(hosts[0], hosts[1], true)
	requireReach(hosts[1], hosts[0], true)
}

func TestHostThatRefusesIsReachedByItselfOnly(t *testing.T) {
	hosts := lab.Hosts(t, 2)
	lab.Introduce(t, hosts)
	hosts[1].Refuse(t, 15000, 65000)
	refused := func(from *lab.Host, port string, limit time.Duration) bool {
		out, err := dial(t, from, hosts[1].IP, port, limit)
		require.Error(t, err) // nothing listens
		return strings.Contains(out, "refused")
	}
	require.True(t, refused(hosts[0], "80", within))
	require.False(t, refused(hosts[0], "15000", inVain))
	require.True(t, refused(hosts[1], "15000", within))
	out, err := dial(t, hosts[1], hosts[0].IP, "15000", within)
	require.Error(t, err)
	require.Contains(t, out, "refused", "it can open connections itself")
}

func TestShapedHostsAreBoundedBothWaysAndCounted(t *testing.T) {
	hosts := lab.Hosts(t, 2)
	lab.Introduce(t, hosts)
	hosts[0].Shape(t, 40_000_000)
	before, err := lab.Received(hosts)
	require.NoError(t, err)
	out, err := dial(t, hosts[1], hosts[0].IP, "1", within)
	require.Error(t, err)
	require.Contains(t, out, "refused")
	after, err := lab.Received(hosts)
	require.NoError(t, err)
	require.Greater(t, after[0], before[0])
	inside := append(hosts[0].Inside(), "tc", "qdisc", "show", "dev", "eth0")
	for _, line := range [][]string{inside, {"tc", "qdisc", "show"}} {
		shown, err := exec.CommandContext(t.Context(), line[0], line[1:]...).Output()
		require.NoError(t, err)
		require.Equal(t, 1, strings.Count(string(shown), "rate 40Mbit"), string(shown))
	}
	inside = append(hosts[0].Inside(), "ip", "neigh", "show")
	shown, err := exec.CommandContext(t.Context(), inside[0], inside[1:]...).Output()
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(string(shown), "PERMANENT"), string(shown))
}
