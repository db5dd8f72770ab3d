package request

import (
	"errors"

	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/taskid"
)

// Registration is a client that wants to download.
type Registration struct {
	// Task is the task that the request names by what it asks for.
	Task TaskID
	// TaskURL is the URL that Task was made of.
	TaskURL string
	// Source is how the task is fetched if nobody has it.
	Source Source
	// Peer is who asks.
	Peer Peer
}

// Source is where and how a task is fetched.
type Source struct {
	// URL is http or https and has a host; it may carry credentials.
	URL string
	// Headers are well-formed, "Name: value" each.
	Headers []string
	// MD5 is lower-case hex, or empty.
	MD5 string
	// Insecure skips the check of the certificate.
	Insecure bool
	// RootCAs are as the client sent them.
	RootCAs [][]byte
}

// Peer is a client.
type Peer struct {
	// ID is the client's cid.
	ID PeerID
	// IP is the IPv4 address of one machine.
	IP string
	// Port is 15000 to 65000, or 0 for a client that serves nothing.
	Port int32
	// Path is empty or starts with a slash.
	Path string
	// HostName, Version and CallSystem are for people.
	HostName, Version, CallSystem string
	// Dfdaemon is set when a dfdaemon started the download.
	Dfdaemon bool
}

// NewRegistration checks a registration. What resident clients say of the task
// (its id, its length, whether they want to be its seed) is not listened to.
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
