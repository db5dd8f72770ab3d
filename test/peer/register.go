package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

const waitAuthRetries = 3

// registerError is a registration that no node of the list took. Its code is
// the last answer's, 0 when there was none.
type registerError struct {
	code int
	err  error
}

func (e *registerError) Error() string { return fmt.Sprintf("registering: code %d: %v", e.code, e.err) }
func (e *registerError) Unwrap() error { return e.err }

// registrar registers the peer, at first and again when it migrates, always
// going on in the same list of addresses.
type registrar struct {
	p         *Peer
	api       *api
	addresses *addresses
	last      *address
}

// register tries the rest of the list until a node takes the peer or says that
// trying others is of no use. The node that was registered at last is not
// asked again, if it is the same entry of the list.
func (r *registrar) register(ctx context.Context) (registration, error) {
	var (
		result  registration
		code    int
		err     = errors.New("no address left")
		retries int
	)
	next := func() *address {
		if code == codeWaitAuth && retries < waitAuthRetries {
			retries++
			if sleep(ctx, time.Second) == nil {
				return r.addresses.current()
			}
		}
		return r.addresses.next()
	}
	request := r.request()
	node := r.addresses.next()
	for ; node != nil && ctx.Err() == nil; node = next() {
		if r.last == node {
			continue
		}
		request.SupernodeIP = node.host
		result, code, err = r.ask(ctx, node, request)
		r.p.rec.tell(Event{Kind: Registered, Node: node.String(), Code: code, Err: err})
		if code == codeSuccess || code == codeNeedAuth || code == codeURLNotReachable {
			break
		}
	}
	r.last = node
	if ctx.Err() != nil {
		return registration{}, context.Cause(ctx)
	}
	if err == nil && code != codeSuccess {
		err = errors.New("refused")
	}
	if err != nil {
		return registration{}, &registerError{code: code, err: err}
	}
	result.node = node.String()
	return result, nil
}

// ask gives code 0 for whatever is no answer.
func (r *registrar) ask(ctx context.Context, node *address, request *registerRequest) (registration, int, error) {
	body, err := r.api.post(ctx, node.String(), "/peer/registry", request)
	if err != nil {
		return registration{}, 0, err
	}
	code, data, err := parseEnvelope(body)
	if err != nil {
		return registration{}, 0, err
	}
	var result *registration
	if len(data) > 0 {
		if err := json.Unmarshal(data, &result); err != nil {
			return registration{}, 0, fmt.Errorf("reading the registration %.200q: %w", data, err)
		}
	}
	if code != codeSuccess {
		return registration{}, code, nil
	}
	if result == nil {
		return registration{}, code, fmt.Errorf("a registration without data: %w", ErrDies)
	}
	return *result, code, nil
}

func (r *registrar) request() *registerRequest {
	cfg := &r.p.cfg
	hostname, _ := os.Hostname() // an empty one is as good
	request := &registerRequest{
		RawURL: cfg.URL, TaskURL: cfg.TaskURL, Cid: r.p.cid, IP: r.p.ip, HostName: hostname,
		Port: r.p.port(), Path: uploadPrefix + r.p.name, Version: cfg.Version, CallSystem: cfg.CallSystem,
		Headers: cfg.Headers, DFDaemon: cfg.DFDaemon, Insecure: cfg.Insecure, RootCAs: cfg.RootCAs,
	}
	if cfg.MD5 != "" {
		request.MD5 = cfg.MD5
	} else {
		request.Identifier = cfg.Identifier
	}
	return request
}
