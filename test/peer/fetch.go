package peer

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/supernode-ha/supernode/pkg/piece"
)

const (
	probeTimeout = 500 * time.Millisecond
	minRate      = 64 << 10 // bytes a second
	reserve      = 10 * time.Second
	readStep     = 32 << 10

	errorNotExist = "FILE_NOT_EXIST"
	errorMD5      = "FILE_MD5_NOT_MATCH"
)

// ErrNoAnswer is in the error of a piece of which not a byte came, not even of
// an answer's header.
var ErrNoAnswer = errors.New("no answer")

// pieceError is a failure that the cluster is told of.
type pieceError struct {
	kind string
	real string
	want string
}

func (e *pieceError) Error() string {
	return fmt.Sprintf("%s: %q instead of %q", e.kind, e.real, e.want)
}

// fetch gets one piece and hands it to the writer first, to the loop then. A
// failure is told to the loop after a pause.
func (s *session) fetch(ctx context.Context, o *offer, node, taskID string) {
	began := time.Now()
	it := &item{node: node, taskID: taskID, dstCid: o.Cid, pieceRange: o.Range, status: statusRunning, num: o.PieceNum}
	content, err := s.download(ctx, o)
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		s.p.rec.arrived(o, content.Len()-s.wrapLength(), time.Since(began))
		it.result, it.size = resultSemi, o.PieceSize
		s.write(ctx, writeOrder{piece: it, content: content})
		s.queue.put(it)
		return
	}
	s.p.rec.failed(o, err, time.Since(began))
	it.result = resultFail
	s.workers.Go(func() {
		if sleep(ctx, failurePause) == nil {
			s.queue.put(it)
		}
	})
	var told *pieceError
	if errors.As(err, &told) {
		// The answer changes nothing.
		_, _ = s.api.get(ctx, node, "/peer/piece/error", s.errorQuery(o, taskID, told))
	}
}

func (s *session) errorQuery(o *offer, taskID string, e *pieceError) string {
	if e.kind == errorNotExist {
		return query("errorType", e.kind, "srcCid", s.p.cid, "dstCid", o.Cid, "dstIp", "",
			"taskId", taskID, "range", "", "realMd5", "", "expectedMd5", "")
	}
	return query("errorType", e.kind, "srcCid", s.p.cid, "dstCid", o.Cid, "dstIp", o.PeerIP,
		"taskId", taskID, "range", o.Range, "realMd5", e.real, "expectedMd5", e.want)
}

// download gives what the offered peer sends, if it is right.
func (s *session) download(ctx context.Context, o *offer) (*bytes.Buffer, error) {
	if err := probe(ctx, o); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(int(o.PieceSize)/minRate)*time.Second+reserve)
	defer cancel()
	request, err := s.pieceRequest(ctx, o)
	if err != nil {
		return nil, err
	}
	response, err := s.p.pieces.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking for piece %d: %w: %w", o.PieceNum, ErrNoAnswer, err)
	}
	defer response.Body.Close() //nolint:errcheck // it has been read
	if response.StatusCode < 200 || response.StatusCode > 299 {
		// dfget reads the text, which leaves the connection usable.
		text, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
		if response.StatusCode == http.StatusNotFound {
			return nil, &pieceError{kind: errorNotExist}
		}
		return nil, &statusError{status: response.StatusCode, body: text}
	}
	return s.receive(ctx, o, response)
}

// receive reads and checks the body.
func (s *session) receive(ctx context.Context, o *offer, response *http.Response) (*bytes.Buffer, error) {
	want, _, _ := strings.Cut(o.PieceMD5, ":")
	buffer := s.p.cfg.Buffers.get(expectedLength(o, response.ContentLength))
	sum := md5.New()
	reader := io.Reader(response.Body)
	if s.limiter != nil {
		reader = &limitedReader{ctx: ctx, from: reader, limiter: s.limiter}
	}
	_, err := buffer.ReadFrom(io.TeeReader(reader, sum))
	if err != nil {
		err = fmt.Errorf("reading piece %d: %w", o.PieceNum, err)
	} else if got := hex.EncodeToString(sum.Sum(nil)); want != "" && got != want {
		err = &pieceError{kind: errorMD5, real: got, want: want}
	}
	if err != nil {
		s.p.cfg.Buffers.put(buffer)
		return nil, err
	}
	return buffer, nil
}

// expectedLength is how much memory to get ready, never more than a piece.
func expectedLength(o *offer, announced int64) int {
	if announced >= 0 && announced <= int64(o.PieceSize) {
		return int(announced)
	}
	if _, length, err := piece.ParseDigest(o.PieceMD5); err == nil {
		return int(length)
	}
	return 0
}

// probe connects and says nothing, once for every piece.
func probe(ctx context.Context, o *offer) error {
	if o.PeerIP == "" {
		return nil
	}
	dialer := net.Dialer{Timeout: probeTimeout}
	conn, err := dialer.DialContext(ctx, "tcp4", net.JoinHostPort(o.PeerIP, strconv.Itoa(o.PeerPort)))
	if err != nil {
		return fmt.Errorf("probing the sender of piece %d: %w", o.PieceNum, err)
	}
	return conn.Close()
}

func (s *session) fromSource() bool { return s.first.CDNSource == sourceCDN }

func (s *session) wrapLength() int {
	if s.fromSource() {
		return 0
	}
	return piece.WrapLength
}

func (s *session) pieceRequest(ctx context.Context, o *offer) (*http.Request, error) {
	address := "http://" + net.JoinHostPort(o.PeerIP, strconv.Itoa(o.PeerPort)) + o.Path
	pieceRange := o.Range
	headers := map[string]string{}
	if s.fromSource() {
		headers = headerMap(s.p.cfg.Headers)
		headers["cdnSource"] = sourceCDN
		pieceRange = clip(pieceRange, s.first.FileLength)
	}
	if strings.Contains(o.Path, "://") {
		address = o.Path
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("asking for piece %d: %w", o.PieceNum, err)
	}
	request.Header.Set("pieceNum", strconv.Itoa(o.PieceNum))
	request.Header.Set("pieceSize", strconv.Itoa(int(o.PieceSize)))
	request.Header.Set("User-Agent", "dfget/"+s.p.cfg.Version)
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	request.Header.Set("Range", "bytes="+pieceRange)
	return request, nil
}

// clip ends a range where the file ends, if its length is known.
func clip(pieceRange string, length int64) string {
	first, lastText, _ := strings.Cut(pieceRange, "-")
	last, err := strconv.ParseInt(lastText, 10, 64)
	if err != nil || length <= 0 || last < length {
		return pieceRange
	}
	return first + "-" + strconv.FormatInt(length-1, 10)
}

// headerMap reads "Name: value" lines; values of one name are joined.
func headerMap(lines []string) map[string]string {
	headers := make(map[string]string)
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || value == "" {
			continue
		}
		if had, ok := headers[name]; ok {
			value = had + "," + value
		}
		headers[name] = value
	}
	return headers
}

// limitedReader reads no faster than the limiter, which all pieces share.
type limitedReader struct {
	ctx     context.Context
	from    io.Reader
	limiter *rate.Limiter
}

func (r *limitedReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p[:min(len(p), readStep)])
	if n > 0 {
		if waitErr := r.limiter.WaitN(r.ctx, n); waitErr != nil {
			return n, waitErr
		}
	}
	return n, err
}
