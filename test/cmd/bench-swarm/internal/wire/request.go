// Package wire writes the calls of dfget 1.0.6 as the bytes that it sends, and
// reads what matters of the answers, with little work: it is used for every call
// of thousands of peers.
package wire

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
)

// What a pull says about the download and about the piece that it names.
const (
	StatusStart   = 700
	StatusRunning = 701

	ResultFail    = 500
	ResultInvalid = 502 // of a pull that names no piece
	ResultSemi    = 503 // the piece is downloaded, but not written yet
)

// Writer writes the calls to one server.
type Writer struct {
	host string
	tail string // of a request line, and the headers of every request
}

// NewWriter returns a Writer for the server at host:port.
func NewWriter(address string) (Writer, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return Writer{}, fmt.Errorf("the server's address: %w", err)
	}
	return Writer{host: host, tail: " HTTP/1.1\r\nUser-Agent: fasthttp\r\nHost: " + address + "\r\n"}, nil
}

// Piece names a piece. A Size of 0 stands for none.
type Piece struct{ Num, Size int32 }

// appendTo writes the piece's range: dfget names pieces by it.
func (p Piece) appendTo(b []byte) []byte {
	if p.Size == 0 {
		return b
	}
	first := int64(p.Num) * int64(p.Size)
	b = strconv.AppendInt(b, first, 10)
	b = append(b, '-')
	return strconv.AppendInt(b, first+int64(p.Size)-1, 10)
}

// Pull is a report on one piece and the request for more.
type Pull struct {
	TaskID, Cid string
	// From is the cid of the source of Piece.
	From           string
	Piece          Piece
	Result, Status int
}

// Pull appends GET /peer/task. The arguments are not URL-encoded: dfget does not
// do that either.
func (w Writer) Pull(b []byte, p Pull) []byte {
	b = append(b, "GET /peer/task?srcCid="...)
	b = append(b, p.Cid...)
	b = append(b, "&dstCid="...)
	b = append(b, p.From...)
	b = append(b, "&range="...)
	b = p.Piece.appendTo(b)
	b = append(b, "&result="...)
	b = strconv.AppendInt(b, int64(p.Result), 10)
	b = append(b, "&status="...)
	b = strconv.AppendInt(b, int64(p.Status), 10)
	b = append(b, "&taskId="...)
	b = append(b, p.TaskID...)
	return w.end(b)
}

// Written appends GET /peer/piece/suc: a piece is on the peer's disk.
func (w Writer) Written(b []byte, taskID, cid, from string, p Piece) []byte {
	b = append(b, "GET /peer/piece/suc?taskId="...)
	b = append(b, taskID...)
	b = append(b, "&cid="...)
	b = append(b, cid...)
	b = append(b, "&dstCid="...)
	b = append(b, from...)
	b = append(b, "&pieceRange="...)
	b = p.appendTo(b)
	return w.end(b)
}

// Wrong appends GET /peer/piece/error: a piece had other bytes than announced.
func (w Writer) Wrong(b []byte, taskID, cid, from string, p Piece) []byte {
	b = append(b, "GET /peer/piece/error?errorType=FILE_MD5_NOT_MATCH&srcCid="...)
	b = append(b, cid...)
	b = append(b, "&dstCid="...)
	b = append(b, from...)
	b = append(b, "&dstIp=&taskId="...)
	b = append(b, taskID...)
	b = append(b, "&range="...)
	b = p.appendTo(b)
	b = append(b, "&realMd5=00000000000000000000000000000000&expectedMd5=11111111111111111111111111111111"...)
	return w.end(b)
}

// Leave appends GET /peer/service/down: the peer serves no more.
func (w Writer) Leave(b []byte, taskID, cid string) []byte {
	b = append(b, "GET /peer/service/down?taskId="...)
	b = append(b, taskID...)
	b = append(b, "&cid="...)
	b = append(b, cid...)
	return w.end(b)
}

func (w Writer) end(b []byte) []byte { return append(append(b, w.tail...), "\r\n"...) }

// Registration is a peer that wants to download a file.
type Registration struct {
	SupernodeIP string `json:"superNodeIp"`
	RawURL      string `json:"rawUrl"`
	TaskURL     string `json:"taskUrl"`
	Cid         string `json:"cid"`
	IP          string `json:"ip"`
	HostName    string `json:"hostName"`
	Port        int    `json:"port"`
	Path        string `json:"path"`
	Version     string `json:"version,omitempty"`
	MD5         string `json:"md5,omitempty"`
}

// RegisterPath is where peers register.
const RegisterPath = "/peer/registry"

// Register appends POST /peer/registry. It sets the server's address and the
// task's URL in the registration.
func (w Writer) Register(b []byte, r Registration) ([]byte, error) {
	r.SupernodeIP, r.TaskURL = w.host, r.RawURL
	return w.post(b, RegisterPath, r)
}

// Metrics is how a download ended.
type Metrics struct {
	IP               string  `json:"IP,omitempty"`
	BacksourceReason string  `json:"backsourceReason,omitempty"`
	Cid              string  `json:"cID,omitempty"`
	Duration         float64 `json:"duration,omitempty"` // seconds
	FileLength       int64   `json:"fileLength,omitempty"`
	Port             int     `json:"port,omitempty"`
	Success          bool    `json:"success,omitempty"`
	TaskID           string  `json:"taskId,omitempty"`
}

// Metrics appends POST /task/metrics.
func (w Writer) Metrics(b []byte, m Metrics) ([]byte, error) {
	return w.post(b, "/task/metrics", m)
}

func (w Writer) post(b []byte, path string, message any) ([]byte, error) {
	body, err := json.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("writing the body of %s: %w", path, err)
	}
	return w.Post(b, path, body), nil
}

// Post appends a POST with a body that may be anything.
func (w Writer) Post(b []byte, path string, body []byte) []byte {
	b = append(b, "POST "...)
	b = append(b, path...)
	b = append(b, w.tail...)
	b = append(b, "Content-Type: application/json;charset=utf-8\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\n\r\n"...)
	return append(b, body...)
}
