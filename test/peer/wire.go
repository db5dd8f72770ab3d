package peer

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Codes of answers that make a difference to the client.
const (
	codeSuccess         = 200
	codeFinish          = 600
	codeContinue        = 601
	codeWait            = 602
	codeLimited         = 603
	codeURLNotReachable = 607
	codeNeedAuth        = 608
	codeWaitAuth        = 609
	codeMetricsTaken    = 1
)

// What a pull says of the piece that it names, and of the download.
const (
	resultFail    = 500
	resultSuccess = 501
	resultInvalid = 502
	resultSemi    = 503

	statusStart   = 700
	statusRunning = 701
)

// cdnPrefix starts the cid of a CDN's piece.
const cdnPrefix = "cdnnode:"

// sourceCDN is the CDNSource of a task whose pieces come from the source.
const sourceCDN = "source"

// ErrDies is wrapped by what a Peer gives when dfget would have died of the
// answer: it reads fields of data that is not there.
var ErrDies = errors.New("dfget dies of this answer")

type registerRequest struct {
	SupernodeIP string   `json:"superNodeIp"`
	RawURL      string   `json:"rawUrl"`
	TaskURL     string   `json:"taskUrl"`
	Cid         string   `json:"cid"`
	IP          string   `json:"ip"`
	HostName    string   `json:"hostName"`
	Port        int      `json:"port"`
	Path        string   `json:"path"`
	Version     string   `json:"version,omitempty"`
	MD5         string   `json:"md5,omitempty"`
	Identifier  string   `json:"identifier,omitempty"`
	CallSystem  string   `json:"callSystem,omitempty"`
	Headers     []string `json:"headers,omitempty"`
	DFDaemon    bool     `json:"dfdaemon,omitempty"`
	Insecure    bool     `json:"insecure,omitempty"`
	RootCAs     [][]byte `json:"rootCAs,omitempty"`
}

type metricsRequest struct {
	IP               string  `json:"IP,omitempty"`
	BacksourceReason string  `json:"backsourceReason,omitempty"`
	CID              string  `json:"cID,omitempty"`
	CallSystem       string  `json:"callSystem,omitempty"`
	Duration         float64 `json:"duration,omitempty"`
	FileLength       int64   `json:"fileLength,omitempty"`
	Port             int     `json:"port,omitempty"`
	Success          bool    `json:"success,omitempty"`
	TaskID           string  `json:"taskId,omitempty"`
}

// envelope is what every answer comes in. Numbers must be numbers: a code or
// a length written as a string makes the whole answer unreadable.
type envelope struct {
	Code *int            `json:"code"`
	Msg  *string         `json:"msg"`
	Data json.RawMessage `json:"data"`
}

func parseEnvelope(body []byte) (code int, data json.RawMessage, err error) {
	var e envelope
	if err := json.Unmarshal(body, &e); err != nil {
		return 0, nil, fmt.Errorf("reading the answer %.200q: %w", body, err)
	}
	if e.Code == nil && e.Msg == nil {
		return 0, nil, fmt.Errorf("neither code nor msg in %.200q: %w", body, ErrDies)
	}
	if e.Code != nil {
		code = *e.Code
	}
	return code, e.Data, nil
}

// parseCode reads an answer of which nothing but the code matters, and which
// may even lack that.
func parseCode(body []byte) (int, error) {
	var e struct {
		Code int `json:"code"`
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return 0, fmt.Errorf("reading the answer %.200q: %w", body, err)
	}
	return e.Code, nil
}

type registration struct {
	TaskID     string `json:"taskId"`
	FileLength int64  `json:"fileLength"`
	PieceSize  int32  `json:"pieceSize"`
	CDNSource  string `json:"cdnSource"`

	node string
}

// offer is a piece that a pull's answer tells to get.
type offer struct {
	Range     string `json:"range"`
	PieceNum  int    `json:"pieceNum"`
	PieceSize int32  `json:"pieceSize"`
	PieceMD5  string `json:"pieceMd5"`
	Cid       string `json:"cid"`
	PeerIP    string `json:"peerIp"`
	PeerPort  int    `json:"peerPort"`
	Path      string `json:"path"`
	DownLink  int    `json:"downLink"`
}

type finished struct {
	MD5        string `json:"md5"`
	FileLength int64  `json:"fileLength"`
}

// parseOffers takes data that cannot be read for no offers at all, as dfget
// does: it then has nothing to do and hangs.
func parseOffers(data json.RawMessage) ([]*offer, error) {
	var offers []*offer
	if readable := json.Unmarshal(data, &offers) == nil; !readable {
		return nil, nil
	}
	if slices.Contains(offers, nil) {
		return nil, fmt.Errorf("an offer that is null: %w", ErrDies)
	}
	return offers, nil
}

func parseFinished(data json.RawMessage) (finished, error) {
	var f *finished
	if err := json.Unmarshal(data, &f); err != nil || f == nil {
		return finished{}, fmt.Errorf("data %.200q of a finished task: %w", data, ErrDies)
	}
	return *f, nil
}

// query joins names and values as they are: the client encodes nothing.
func query(pairs ...string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(pairs[i] + "=" + pairs[i+1])
	}
	return b.String()
}

func pullQuery(cid string, it *item) string {
	return query("srcCid", cid, "dstCid", it.dstCid, "range", it.pieceRange,
		"result", strconv.Itoa(it.result), "status", strconv.Itoa(it.status), "taskId", it.taskID)
}
