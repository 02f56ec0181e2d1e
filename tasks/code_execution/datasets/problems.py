"""Small contest problems with several solutions each: the default programs of CodeNetMut.

A section opens with `## name`; its test input follows, one line each behind `> `; solutions are
separated by `--`.
"""

from typing import NamedTuple


class Problem(NamedTuple):
    """A name, the text that every solution reads, and the solutions."""

    name: str
    stdin: str
    solutions: list[str]


def problems() -> list[Problem]:
    """All of them, in the order of the file."""
    found = []
    for section in TEXT.strip("\n").split("## ")[1:]:
        name, _, rest = section.partition("\n")
        lines = rest.split("\n")
        stdin = "\n".join(line[2:] for line in lines if line.startswith("> "))
        code = "\n".join(line for line in lines if not line.startswith("> "))
        found.append(
            Problem(name, stdin, [part.strip("\n") + "\n" for part in code.split("\n--\n")])
        )
    return found


TEXT = r"""
## sum_of_two
> 3 8
a, b = map(int, input().split())
print(a + b)
--
line = input().split()
total = 0
for word in line:
    total += int(word)
print(total)
--
def add(x, y):
    return x + y
numbers = [int(word) for word in input().split()]
print(add(numbers[0], numbers[1]))

## larger_or_equal
> 7 4
a, b = map(int, input().split())
if a > b:
    print('a > b')
elif a < b:
    print('a < b')
else:
    print('a == b')
--
a, b = map(int, input().split())
sign = '=='
if a != b:
    sign = '>' if a > b else '<'
print('a', sign, 'b')

## reverse_word
> planet
word = input()
print(word[::-1])
--
letters = list(input())
letters.reverse()
print(''.join(letters))
--
word = input()
result = ''
for letter in word:
    result = letter + result
print(result)
--
word = input()
i = len(word) - 1
while i >= 0:
    print(word[i], end='')
    i -= 1
print()

## palindrome
> level
word = input()
if word == word[::-1]:
    print('Yes')
else:
    print('No')
--
word = list(input())
answer = 'Yes'
for i in range(len(word) // 2):
    if word[i] != word[-1 - i]:
        answer = 'No'
        break
print(answer)
--
def same(text):
    if len(text) < 2:
        return True
    if text[0] != text[-1]:
        return False
    return same(text[1:-1])
print('Yes' if same(input()) else 'No')

## count_letter
> banana
word = input()
print(word.count('a'))
--
count = 0
for letter in input():
    if letter == 'a':
        count += 1
print(count)
--
word = input()
kept = [letter for letter in word if letter == 'a']
print(len(kept))

## factorial
> 5
n = int(input())
result = 1
for i in range(2, n + 1):
    result *= i
print(result)
--
def factorial(n):
    if n == 0:
        return 1
    return n * factorial(n - 1)
print(factorial(int(input())))
--
n = int(input())
result = 1
while n > 1:
    result = result * n
    n -= 1
print(result)

## greatest_divisor
> 48 36
a, b = map(int, input().split())
while b:
    a, b = b, a % b
print(a)
--
def gcd(x, y):
    if y == 0:
        return x
    return gcd(y, x % y)
a, b = map(int, input().split())
print(gcd(a, b))
--
a, b = map(int, input().split())
for d in range(min(a, b), 0, -1):
    if a % d == 0 and b % d == 0:
        print(d)
        break
--
a, b = map(int, input().split())
while a != b:
    if a > b:
        a -= b
    else:
        b -= a
print(a)

## is_prime
> 13
n = int(input())
prime = n > 1
for d in range(2, n):
    if n % d == 0:
        prime = False
        break
print('prime' if prime else 'composite')
--
n = int(input())
d = 2
while d * d <= n:
    if n % d == 0:
        print('composite')
        break
    d += 1
else:
    print('prime')
--
def divisors(n):
    found = []
    for d in range(1, n + 1):
        if n % d == 0:
            found.append(d)
    return found
n = int(input())
print('prime' if len(divisors(n)) == 2 else 'composite')

## primes_below
> 12
n = int(input())
sieve = [True] * n
for i in range(2, n):
    if sieve[i]:
        print(i)
        for j in range(i * i, n, i):
            sieve[j] = False
--
n = int(input())
found = []
for i in range(2, n):
    for p in found:
        if i % p == 0:
            break
    else:
        found.append(i)
for p in found:
    print(p)

## fibonacci
> 8
n = int(input())
a, b = 0, 1
for i in range(n):
    a, b = b, a + b
print(a)
--
n = int(input())
values = [0, 1]
while len(values) <= n:
    values.append(values[-1] + values[-2])
print(values[n])
--
known = {0: 0, 1: 1}
def fib(n):
    if n not in known:
        known[n] = fib(n - 1) + fib(n - 2)
    return known[n]
print(fib(int(input())))

## largest_of_list
> 5
> 3 9 2 7 5
n = int(input())
values = list(map(int, input().split()))
best = values[0]
for value in values:
    if value > best:
        best = value
print(best)
--
n = int(input())
values = list(map(int, input().split()))
print(max(values))
--
n = int(input())
values = sorted(map(int, input().split()))
print(values[-1])

## second_largest
> 6 2 9 4
values = list(map(int, input().split()))
values.sort()
print(values[-2])
--
first = second = -1
for value in map(int, input().split()):
    if value > first:
        first, second = value, first
    elif value > second:
        second = value
print(second)
--
values = list(map(int, input().split()))
values.remove(max(values))
print(max(values))

## bubble_sort
> 5 1 4 2
values = list(map(int, input().split()))
n = len(values)
for i in range(n):
    for j in range(n - 1 - i):
        if values[j] > values[j + 1]:
            values[j], values[j + 1] = values[j + 1], values[j]
print(values)
--
values = list(map(int, input().split()))
ordered = []
while values:
    least = min(values)
    values.remove(least)
    ordered.append(least)
print(ordered)
--
values = list(map(int, input().split()))
for i in range(1, len(values)):
    j = i
    while j > 0 and values[j - 1] > values[j]:
        values[j - 1], values[j] = values[j], values[j - 1]
        j -= 1
print(values)

## digit_sum
> 4072
n = int(input())
total = 0
while n > 0:
    total += n % 10
    n //= 10
print(total)
--
total = 0
for digit in input():
    total += int(digit)
print(total)
--
print(sum(map(int, list(input()))))
--
def digits(n):
    if n < 10:
        return n
    return n % 10 + digits(n // 10)
print(digits(int(input())))

## count_even
> 4 7 10 3 8
values = list(map(int, input().split()))
count = 0
for value in values:
    if value % 2 == 0:
        count += 1
print(count)
--
values = list(map(int, input().split()))
print(len([v for v in values if not v & 1]))
--
even = 0
for word in input().split():
    if word[-1] in '02468':
        even += 1
print(even)

## vowels
> education
count = 0
for letter in input():
    if letter in 'aeiou':
        count += 1
print(count)
--
word = input()
counts = {}
for vowel in 'aeiou':
    counts[vowel] = word.count(vowel)
print(sum(counts.values()))

## collatz
> 6
n = int(input())
steps = 0
while n != 1:
    if n % 2 == 0:
        n //= 2
    else:
        n = 3 * n + 1
    steps += 1
print(steps)
--
def steps(n):
    if n == 1:
        return 0
    if n % 2:
        return 1 + steps(3 * n + 1)
    return 1 + steps(n // 2)
print(steps(int(input())))

## multiplication_table
> 3
n = int(input())
for i in range(1, n + 1):
    row = []
    for j in range(1, n + 1):
        row.append(i * j)
    print(row)
--
n = int(input())
i = 1
while i <= n:
    print([i * j for j in range(1, n + 1)])
    i += 1

## most_common
> a b a c b a
counts = {}
for word in input().split():
    counts[word] = counts.get(word, 0) + 1
best = ''
for word in counts:
    if best == '' or counts[word] > counts[best]:
        best = word
print(best, counts[best])
--
words = input().split()
best = words[0]
for word in words:
    if words.count(word) > words.count(best):
        best = word
print(best, words.count(best))

## balanced
> (()())
depth = 0
good = True
for c in input():
    if c == '(':
        depth += 1
    else:
        depth -= 1
    if depth < 0:
        good = False
        break
print('Yes' if good and depth == 0 else 'No')
--
stack = []
ok = True
for c in input():
    if c == '(':
        stack.append(c)
    elif stack:
        stack.pop()
    else:
        ok = False
print('Yes' if ok and not stack else 'No')
--
text = input()
while '()' in text:
    text = text.replace('()', '')
print('Yes' if text == '' else 'No')

## binary
> 13
n = int(input())
bits = ''
while n:
    bits = str(n % 2) + bits
    n //= 2
print(bits)
--
n = int(input())
found = []
for i in range(8):
    if n >> i & 1:
        found.append('1')
    else:
        found.append('0')
print(''.join(reversed(found)).lstrip('0'))

## count_bits
> 45
n = int(input())
count = 0
while n:
    count += n & 1
    n >>= 1
print(count)
--
n = int(input())
count = 0
while n:
    n &= n - 1
    count += 1
print(count)
--
n = int(input())
mask, count = 1, 0
while mask <= n:
    if mask | n == n:
        count += 1
    mask <<= 1
print(count)

## odd_one_out
> 5 3 5 7 3
values = list(map(int, input().split()))
result = 0
for value in values:
    result ^= value
print(result)
--
values = list(map(int, input().split()))
for value in values:
    if values.count(value) % 2 == 1:
        print(value)
        break

## two_sum
> 9
> 2 7 11 5
target = int(input())
values = list(map(int, input().split()))
for i in range(len(values)):
    for j in range(i + 1, len(values)):
        if values[i] + values[j] == target:
            print(i, j)
--
target = int(input())
values = list(map(int, input().split()))
places = {}
for i, value in enumerate(values):
    if target - value in places:
        print(places[target - value], i)
    places[value] = i

## binary_search
> 7
> 1 3 5 7 9 11
target = int(input())
values = list(map(int, input().split()))
low, high = 0, len(values) - 1
while low <= high:
    middle = (low + high) // 2
    if values[middle] < target:
        low = middle + 1
    elif values[middle] > target:
        high = middle - 1
    else:
        print(middle)
        break
else:
    print(-1)
--
target = int(input())
values = list(map(int, input().split()))
answer = -1
for i, value in enumerate(values):
    if not value != target:
        answer = i
print(answer)

## running_sum
> 3 1 4 1 5
values = list(map(int, input().split()))
total = 0
for value in values:
    total += value
    print(total)
--
values = list(map(int, input().split()))
for i in range(1, len(values)):
    values[i] += values[i - 1]
for value in values:
    print(value)

## coins
> 87
amount = int(input())
count = 0
for coin in (50, 20, 10, 5, 2, 1):
    while amount >= coin:
        amount -= coin
        count += 1
print(count)
--
amount = int(input())
count = 0
for coin in [50, 20, 10, 5, 2, 1]:
    count += amount // coin
    amount %= coin
print(count)

## fizz_buzz
> 7
n = int(input())
for i in range(1, n + 1):
    if i % 15 == 0:
        print('FizzBuzz')
    elif i % 3 == 0:
        print('Fizz')
    elif i % 5 == 0:
        print('Buzz')
    else:
        print(i)
--
n = int(input())
i = 0
while True:
    i += 1
    if i > n:
        break
    text = ''
    if not i % 3:
        text += 'Fizz'
    if not i % 5:
        text += 'Buzz'
    print(text or i)

## leap_year
> 2024
year = int(input())
if year % 4 == 0 and year % 100 != 0 or year % 400 == 0:
    print('leap')
else:
    print('common')
--
def leap(year):
    if year % 400 == 0:
        return True
    if year % 100 == 0:
        return False
    return year % 4 == 0
print('leap' if leap(int(input())) else 'common')

## caesar
> xyz 3
word, shift = input().split()
shift = int(shift)
result = ''
for letter in word:
    result += chr((ord(letter) - 97 + shift) % 26 + 97)
print(result)
--
alphabet = 'abcdefghijklmnopqrstuvwxyz'
word, shift = input().split()
letters = []
for letter in word:
    place = alphabet.index(letter) + int(shift)
    if place >= 26:
        place -= 26
    letters.append(alphabet[place])
print(''.join(letters))

## distance
> 1 -2 4 -6
x1, y1, x2, y2 = map(int, input().split())
dx, dy = x2 - x1, y2 - y1
print(abs(dx) + abs(dy))
--
values = list(map(int, input().split()))
total = 0
for i in range(2):
    step = values[i] - values[i + 2]
    if step < 0:
        step = -step
    total += step
print(total)

## matrix_diagonal
> 3
n = int(input())
grid = [[i * n + j for j in range(n)] for i in range(n)]
total = 0
for i in range(n):
    total += grid[i][i]
print(total)
--
n = int(input())
total, value = 0, 0
for i in range(n):
    for j in range(n):
        if i == j:
            total += value
        value += 1
print(total)
"""
