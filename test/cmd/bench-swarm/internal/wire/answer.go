package wire

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
)

// Codes of answers.
const (
	CodeMetricsTaken = 1
	CodeSuccess      = 200
	CodeFinished     = 600
	CodeContinue     = 601
	CodeWait         = 602
	CodeLimited      = 603
)

// cdnPrefix starts the cid of a CDN.
const cdnPrefix = "cdnnode:"

// IsCDN reports whether a cid is that of a CDN.
func IsCDN(cid string) bool { return strings.HasPrefix(cid, cdnPrefix) }

// Offer is a piece that the answer to a pull tells the peer to fetch.
type Offer struct {
	Piece
	// Cid is that of the source. It is valid as long as the body of the answer.
	Cid []byte
}

// Answer is the answer to a pull.
type Answer struct {
	Code   int
	Offers []Offer
}

// Read reads the body of an answer. It reuses the memory of the offers.
func (a *Answer) Read(body []byte) error {
	a.Code, a.Offers = 0, a.Offers[:0]
	s := scanner{data: body}
	return s.object(func(name []byte) error {
		switch {
		case string(name) == "code":
			code, err := s.integer()
			a.Code = int(code)
			return err
		case string(name) == "data" && s.next() == '[':
			return s.array(func() error {
				o, err := s.offer()
				a.Offers = append(a.Offers, o)
				return err
			})
		}
		return s.skip(0)
	})
}

func (s *scanner) offer() (Offer, error) {
	var o Offer
	var pieceRange []byte
	number := func(to *int32) error {
		n, err := s.integer()
		if err == nil && (n < 0 || n > math.MaxInt32) {
			err = s.fail("a number of 32 bits")
		}
		*to = int32(n)
		return err
	}
	err := s.object(func(name []byte) (err error) {
		switch string(name) {
		case "pieceNum":
			return number(&o.Num)
		case "pieceSize":
			return number(&o.Size)
		case "cid":
			o.Cid, err = s.text()
		case "range":
			pieceRange, err = s.text()
		default:
			err = s.skip(0)
		}
		return err
	})
	if err != nil {
		return o, err
	}
	var want [48]byte
	if string(o.appendTo(want[:0])) != string(pieceRange) {
		return o, fmt.Errorf("an offer of piece %d of %d bytes has the range %q", o.Num, o.Size, pieceRange)
	}
	return o, nil
}

// ReadCode returns the code of an answer, 0 if it has none.
func ReadCode(body []byte) (int, error) {
	code := 0
	s := scanner{data: body}
	if s.next() == 'n' { // the original answers null to /task/metrics
		return 0, nil
	}
	err := s.object(func(name []byte) error {
		if string(name) != "code" {
			return s.skip(0)
		}
		n, err := s.integer()
		code = int(n)
		return err
	})
	return code, err
}

// Registered is what the answer to a registration says about the task.
type Registered struct {
	TaskID     string `json:"taskId"`
	FileLength int64  `json:"fileLength"`
	PieceSize  int32  `json:"pieceSize"`
}

// ReadRegistered returns the code of the answer to a registration, and the task if
// the code is CodeSuccess.
func ReadRegistered(body []byte) (int, Registered, error) {
	var answer struct {
		Code int        `json:"code"`
		Data Registered `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, Registered{}, fmt.Errorf("reading the answer %.200q: %w", body, err)
	}
	if answer.Code == CodeSuccess && answer.Data.TaskID == "" {
		return 0, Registered{}, fmt.Errorf("%w: no task in %.200q", errJSON, body)
	}
	return answer.Code, answer.Data, nil
}
