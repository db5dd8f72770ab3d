package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// inside marks the process that runs in namespaces of its own.
const inside = "SUPERNODE_TEST_INSIDE"

// Inside says that this process was started by Isolate.
func Inside() bool { return os.Getenv(inside) != "" }

// Isolate runs this very command again in a mount and a network namespace of
// its own, with env added to its environment, and gives its exit code. It must
// be called from the main goroutine. Root may do that; whoever may not is told.
func Isolate(env ...string) (int, error) {
	// What is started dies with the thread that has started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...) //nolint:noctx // the command that runs us bounds it
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(append(os.Environ(), inside+"=1"), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1), nil
	default:
		return 1, fmt.Errorf("starting the tests in namespaces of their own, which takes root and CAP_SYS_ADMIN: %w", err)
	}
}

// Settle makes the namespaces of this process usable: mounts stay in it,
// loopback is up, and its sockets hold little.
func Settle() error {
	if !Inside() {
		return errors.New("this process has no namespaces of its own: it was not started by Isolate")
	}
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keeping mounts to this process: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("setting loopback up: %w", err)
	}
	return boundSockets()
}

// boundSockets bounds what connections of this network namespace hold. What is
// sent to a process that is held stays in them, tens of megabytes by default,
// and would pass for bytes that somebody asked for.
func boundSockets() error {
	for path, sizes := range map[string]string{
		"/proc/sys/net/ipv4/tcp_rmem": "4096 131072 1048576", "/proc/sys/net/ipv4/tcp_wmem": "4096 65536 1048576",
	} {
		if err := os.WriteFile(path, []byte(sizes), 0o644); err != nil { //nolint:gosec // it exists, and has its own mode
			return fmt.Errorf("bounding socket buffers: %w", err)
		}
	}
	return nil
}

func loopbackUp() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket) //nolint:errcheck // nothing was written
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request)
}
