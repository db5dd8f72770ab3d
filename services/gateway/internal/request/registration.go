package request

import (
	"errors"

	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/taskid"
)

// Registration is a request of a client to download a file.
type Registration struct {
	// Task is the task, computed from what the client asks for.
	Task TaskID
	// TaskURL is the URL that Task was computed from.
	TaskURL string
	// Source says how a CDN fetches the task.
	Source Source
	// Peer is the client.
	Peer Peer
}

// Source says where and how a task is fetched.
type Source struct {
	// URL has the scheme http or https and a host. It may contain credentials.
	URL string
	// Headers are well-formed and have the form "Name: value".
	Headers []string
	// MD5 is the expected MD5 of the content in lower-case hex, or empty.
	MD5 string
	// Insecure disables the check of the source's certificate.
	Insecure bool
	// RootCAs are the PEM certificates that the client sent.
	RootCAs [][]byte
}

// Peer describes a client.
type Peer struct {
	// ID is the client's cid.
	ID PeerID
	// IP is a unicast IPv4 address.
	IP string
	// Port is 15000 to 65000, or 0 if the client has no upload server.
	Port int32
	// Path is empty or starts with a slash.
	Path string
	// HostName, Version and CallSystem are only displayed.
	HostName, Version, CallSystem string
	// Dfdaemon is true if a dfdaemon has started the download.
	Dfdaemon bool
}

// NewRegistration validates a registration. The properties of the task that a
// resident client sends (its id, its length, whether the client is a seed) are
// ignored.
func NewRegistration(in *dfgetv1.RegisterPeerRequest) (Registration, error) {
	source, err := newSource(in)
	if err != nil {
		return Registration{}, err
	}
	peer, err := newPeer(in)
	if err != nil {
		return Registration{}, err
	}
	taskURL := in.GetTaskUrl()
	if taskURL == "" {
		taskURL = source.URL
	}
	if err := errors.Join(checkURL("taskUrl", taskURL), checkText("identifier", in.GetIdentifier(), maxPath)); err != nil {
		return Registration{}, err
	}
	id := taskid.Compute(taskURL, source.MD5, in.GetIdentifier(), source.Headers)
	return Registration{Task: TaskID(id), TaskURL: taskURL, Source: source, Peer: peer}, nil
}

func newSource(in *dfgetv1.RegisterPeerRequest) (Source, error) {
	if in.GetRawUrl() == "" {
		return Source{}, rpcerr.Invalid("rawUrl is required")
	}
	if err := checkURL("rawUrl", in.GetRawUrl()); err != nil {
		return Source{}, err
	}
	if err := errors.Join(checkMD5("md5", in.GetMd5()), checkRootCAs(in.GetRootCas())); err != nil {
		return Source{}, err
	}
	headers, err := checkHeaders(in.GetHeaders())
	if err != nil {
		return Source{}, err
	}
	return Source{
		URL: in.GetRawUrl(), Headers: headers, MD5: in.GetMd5(),
		Insecure: in.GetInsecure(), RootCAs: in.GetRootCas(),
	}, nil
}

func newPeer(in *dfgetv1.RegisterPeerRequest) (Peer, error) {
	id, err := checkPeerID("cid", in.GetCid())
	if err != nil {
		return Peer{}, err
	}
	if in.GetIp() == "" {
		return Peer{}, rpcerr.Invalid("ip is required")
	}
	ip, err := checkIP("ip", in.GetIp())
	if err != nil {
		return Peer{}, err
	}
	err = errors.Join(
		checkUploadPort(in.GetPort()),
		checkPath(in.GetPath()),
		checkText("hostName", in.GetHostName(), maxText),
		checkText("version", in.GetVersion(), maxText),
		checkText("callSystem", in.GetCallSystem(), maxText),
	)
	if err != nil {
		return Peer{}, err
	}
	return Peer{
		ID: id, IP: ip, Port: in.GetPort(), Path: in.GetPath(),
		HostName: in.GetHostName(), Version: in.GetVersion(), CallSystem: in.GetCallSystem(),
		Dfdaemon: in.GetDfdaemon(),
	}, nil
}
